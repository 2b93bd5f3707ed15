"""Folded rows: what stands in a row, what is predicted from where, and that no folding is the plain row."""

import numpy as np
import pytest
import torch

from megacontext.errors import ConfigError
from megacontext.train.pretrain.folding import FoldingConfig, fold

K, T = 4, 20


def rows_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 1000, size=(count, T + 1))


def naive(row, folded):
    """Entries and targets one after the other."""
    ids, targets, gists = [], [], []
    for block, is_folded in enumerate(folded):
        tokens = row[block * K : (block + 1) * K]
        if is_folded:
            ids.append(-1)
            targets.append(row[(block + 1) * K])
            gists.append(tokens.tolist())
        else:
            ids += tokens.tolist()
            targets += row[block * K + 1 : (block + 1) * K + 1].tolist()
    return ids, targets, gists


@pytest.mark.parametrize("seed", range(5))
def test_entries_targets_and_gists_are_those_of_a_loop_over_blocks(seed):
    rng = np.random.default_rng(seed)
    rows = rows_of(6, seed)
    folded = FoldingConfig(block_size=K).draw(rng, 6, T)
    found = fold(rows, folded, K)
    expected = [naive(row, mask) for row, mask in zip(rows, folded, strict=True)]
    assert found.ids.tolist() == [ids for ids, _, _ in expected]
    assert found.targets.tolist() == [targets for _, targets, _ in expected]
    assert found.gist_tokens.tolist() == [gist for _, _, gists in expected for gist in gists]
    assert (found.ids.flatten()[found.gist_slots] == -1).all() and len(found.gist_slots) == folded.sum()


def test_nothing_folded_is_the_plain_row():
    rows = rows_of(3)
    plain, unfolded = fold(rows, None, K), fold(rows, np.zeros((3, T // K), dtype=bool), K)
    for one in (plain, unfolded):
        assert torch.equal(one.ids, torch.from_numpy(rows[:, :-1]))
        assert torch.equal(one.targets, torch.from_numpy(rows[:, 1:]))
        assert len(one.gist_slots) == 0 and one.gist_tokens.shape == (0, K)


def test_every_row_folds_as_many_blocks_and_never_the_last(seed=0):
    config, rng = FoldingConfig(block_size=K, max_share=0.6), np.random.default_rng(seed)
    numbers = set()
    for _ in range(50):
        folded = config.draw(rng, 5, T)
        assert len(set(folded.sum(axis=1).tolist())) == 1 and not folded[:, -1].any()
        numbers.add(int(folded[0].sum()))
    assert numbers == {1, 2, 3}


@pytest.mark.parametrize(("block_size", "max_share"), [(1, 0.5), (32, 0.0), (32, 1.5)])
def test_a_folding_that_cannot_be_is_refused(block_size, max_share):
    with pytest.raises(ConfigError, match="block_size of at least 2 and max_share in"):
        FoldingConfig(block_size=block_size, max_share=max_share)


@pytest.mark.parametrize("tokens", [32, 33, 100, 0])
def test_rows_that_are_no_whole_blocks_are_refused(tokens):
    with pytest.raises(
        ConfigError, match=rf"whole blocks of 32, at least two, got model.sequence_len = {tokens};"
    ):
        FoldingConfig().check(tokens)
