"""Windows read whole, behind gists and cut short predict the same tokens, from what they may see and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import K, ids_of, random_base, random_bundle, stir

from megacontext.errors import ConfigError
from megacontext.gistnet.gist import GistNet, GistNetConfig
from megacontext.runtime.embedding_windows import (
    EmbeddingWindow,
    hidden_behind,
    hidden_plain,
    make_gists,
    predicting,
    scored,
)

WIDTH = 32


def window(**changes):
    return EmbeddingWindow(**({"block_size": K, "blocks": 3, "raw_tokens": 9, "scored_tokens": 7} | changes))


def net(slots=1, **config):
    torch.manual_seed(0)
    made = GistNet(GistNetConfig(heads=2, slots=slots, **config), width=WIDTH, block_size=K)
    stir(made, 0)
    return made.eval()


def rows(shape, count=2, seed=0):
    return torch.from_numpy(ids_of(count * shape.tokens, seed).reshape(count, -1)).long()


@pytest.fixture(scope="module")
def base():
    return random_base()


@pytest.mark.parametrize("policy", ["context", "global"])
@pytest.mark.parametrize("before", [0, 1, 3, 3 * K])
def test_plain_windows_are_the_model_itself_over_their_last_tokens(base, policy, before):
    shape, ids = window(), rows(window())
    seen = ids[:, shape.distant_tokens - before :]
    plain = base(base.embed(seen), torch.arange(seen.shape[1])[None], ids=seen)
    made = hidden_plain(base, shape, policy, ids, before)
    # Rotary positions are relative: where counting begins is nothing to the model.
    torch.testing.assert_close(made, plain, atol=1e-4, rtol=1e-4)
    assert predicting(made, shape).shape[1] == scored(ids, shape).shape[1] == shape.scored_tokens


@given(
    blocks=st.integers(0, 3),
    coarse=st.integers(0, 2),
    slots=st.sampled_from((1, 2, 4)),
    raw=st.integers(1, 11),
)
def test_the_shares_of_gists_tile_the_distant_tokens(blocks, coarse, slots, raw):
    if not blocks + coarse:
        return
    shape = window(blocks=blocks, coarse=coarse, raw_tokens=raw)
    starts, stops = shape.span_bounds(slots)
    assert len(starts) == shape.gists * slots
    assert starts[0] == 0 and stops[-1] == shape.distant_tokens
    assert (starts[1:] == stops[:-1]).all() and (stops > starts).all()


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(("blocks", "coarse"), [(3, 0), (0, 1), (2, 2)])
def test_gists_are_those_of_their_spans_in_time_order(base, slots, blocks, coarse):
    shape, gistnet = window(blocks=blocks, coarse=coarse), net(slots)
    ids = rows(shape)
    made = make_gists(gistnet, base, shape, ids)
    assert made.shape == (2, shape.gists * slots, WIDTH)
    at = 0
    for number in range(coarse):
        tokens = ids[:, at : at + K * K].reshape(-1, K)
        children = gistnet.gists(base.embed(tokens), 1).unflatten(0, (2, K))
        own = made[:, number * slots : (number + 1) * slots]
        torch.testing.assert_close(own, gistnet.gists(children, 2))
        at += K * K
    for number in range(coarse, shape.gists):
        own = made[:, number * slots : (number + 1) * slots]
        torch.testing.assert_close(own, gistnet.gists(base.embed(ids[:, at : at + K]), 1))
        at += K


@pytest.mark.parametrize("policy", ["context", "global"])
def test_what_is_predicted_depends_on_distant_tokens_through_gists_alone_and_on_nothing_later(base, policy):
    shape, gistnet = window(), net()
    ids = rows(shape)
    gists = make_gists(gistnet, base, shape, ids)
    made = hidden_behind(base, shape, policy, gists, ids)
    other = ids.clone()
    other[:, : shape.distant_tokens] = 3
    assert torch.equal(hidden_behind(base, shape, policy, gists, other), made)
    assert not torch.allclose(
        hidden_behind(base, shape, policy, make_gists(gistnet, base, shape, other), ids), made, atol=1e-4
    )
    later = ids.clone()
    later[:, -1] = (later[:, -1] + 1) % 500
    states = predicting(hidden_behind(base, shape, policy, gists, later), shape)
    torch.testing.assert_close(states, predicting(made, shape))


def test_a_gist_that_is_its_only_token_stands_where_the_token_would(base):
    """With raw embeddings for gists, only what a gist lacks (smear, value embedding) may differ: without, nothing."""
    plain = random_base(dialect="classic")
    shape = window(blocks=1)
    ids = rows(shape)
    left = ids[:, :4]
    vectors = plain.embed(ids[:, : shape.distant_tokens])
    whole = plain(
        plain.embed(torch.cat((left, ids), dim=1)),
        torch.arange(4 + shape.tokens)[None],
        ids=torch.cat((left, ids), dim=1),
    )
    # Eight vectors for one span: the slots of a gist share it evenly, here one token each.
    made = hidden_behind(plain, shape, "global", vectors, ids, left=left)
    torch.testing.assert_close(made, whole, atol=1e-4, rtol=1e-4)


def test_left_tokens_are_seen(base):
    shape = window(blocks=1)
    ids = rows(shape)
    gists = make_gists(net(), base, shape, ids)
    without = hidden_behind(base, shape, "context", gists, ids)
    behind = hidden_behind(base, shape, "context", gists, ids, left=ids[:, :5])
    assert behind.shape[1] == without.shape[1] + 5
    assert not torch.allclose(behind[:, 5:], without, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"blocks": 0}, "a distant block or a coarse span at least, got 0 and 0"),
        ({"blocks": -1, "coarse": 2}, "got -1 and 2"),
        ({"raw_tokens": 0}, "at least 1 raw and 1 scored token, got 0 and 7"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        window(**changes)


def test_a_bundle_reads_its_own_windows(tokenizer):
    bundle = random_bundle(tokenizer)
    shape = window()
    gists = make_gists(bundle.gistnet, bundle.base, shape, rows(shape))
    assert gists.shape == (2, 3, bundle.base.width) and np.isfinite(gists.detach().numpy()).all()
