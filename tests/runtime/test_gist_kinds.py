"""A bundle with gist tokens: its trees hold entries of the base's cache, made the same way by every route."""

import numpy as np
import pytest
import torch
from toys import K, ids_of, model_config, random_bundle

from megacontext.config import data_root
from megacontext.errors import CheckpointError, ConfigError, UnknownVariantError
from megacontext.models.entries import entry_width
from megacontext.models.gist_tokens import GistTokensConfig, families, joined
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.gist_kinds import GIST_KINDS
from megacontext.tree import GistEncoder, Memory
from megacontext.tree.encoder import left_windows

SHIPPED = "aa1cde91537f94a5"
"""data/tiny, as every published figure names it."""


def with_tokens(tokenizer, left=0, **changes):
    shape = {
        "gists": "tokens",
        "model": model_config(n_layer=3),
        "gist_tokens": GistTokensConfig(left_tokens=left),
    }
    return random_bundle(tokenizer, **(shape | changes))


@pytest.fixture(scope="module", params=[0, 3, 9])
def made(request, tokenizer):
    return with_tokens(tokenizer, request.param)


@pytest.fixture(scope="module")
def encoder_of(made):
    return BundleEncoder(made)


def seen_by(encoder, count):
    blocks = ids_of(count * K).reshape(count, K)
    begin = np.full(encoder.left_tokens, -1, dtype=np.int32)
    return blocks, left_windows(begin, blocks, encoder.left_tokens)


def test_it_is_the_encoder_that_a_memory_asks_for(made, encoder_of):
    assert isinstance(encoder_of, GistEncoder) and encoder_of.cached_gists
    assert encoder_of.gist_width == entry_width(made.base) == 2 * 3 * 32
    assert encoder_of.left_tokens == max(4, made.config.gist_tokens.left_tokens)
    assert encoder_of.address_width == 16


@pytest.mark.parametrize("count", [1, 63, 65])
def test_blocks_get_the_entries_that_the_base_makes_of_them(made, encoder_of, count):
    blocks, left = seen_by(encoder_of, count)
    gists, _ = encoder_of.encode_blocks(blocks, left)
    own = made.config.gist_tokens.left_tokens
    rows = torch.from_numpy(np.concatenate((left[:, encoder_of.left_tokens - own :], blocks), axis=1)).long()
    with torch.inference_mode():
        expected = [made.gist_tokens.of_blocks(made.base, row[None]) for row in rows]
    np.testing.assert_allclose(gists, joined(expected).packed()[:, 0].numpy(), atol=1e-5)
    if count >= K:
        with torch.inference_mode():
            parent = made.gist_tokens.of_gists(made.base, families(joined(expected[:K]), K), 2)
        found = encoder_of.encode_parents(gists[None, :K], 2)
        np.testing.assert_allclose(found, parent.packed()[:, 0].numpy(), atol=1e-4)


def test_addresses_are_those_of_a_bundle_without(tokenizer):
    plain = random_bundle(tokenizer, model=model_config(n_layer=3))
    made = with_tokens(tokenizer, 9)
    made.address.load_state_dict(plain.address.state_dict())
    encoder, other = BundleEncoder(made), BundleEncoder(plain)
    blocks, left = seen_by(encoder, 5)
    np.testing.assert_array_equal(
        encoder.encode_blocks(blocks, left)[1], other.encode_blocks(blocks, left[:, 5:])[1]
    )


@pytest.mark.parametrize("step", [1, K - 1, K, K + 1, 61])
def test_a_memory_appended_in_pieces_is_the_one_appended_at_once_bit_for_bit(encoder_of, step):
    ids = ids_of(2 * K * K + K + 3)
    at_once, piecewise = (Memory.create(None, encoder_of.identity(), encoder_of) for _ in range(2))
    at_once.append(ids)
    for start in range(0, len(ids), step):
        piecewise.append(ids[start : start + step])
    for lod in (1, 2):
        nodes = np.arange(len(ids) // K**lod)
        assert np.array_equal(piecewise.gists(lod, nodes), at_once.gists(lod, nodes))


def test_a_tree_on_disk_is_the_tree_in_ram(encoder_of, tmp_path):
    ids, nodes = ids_of(K * K + 5), np.arange(K)
    in_ram = Memory.create(None, encoder_of.identity(), encoder_of)
    in_ram.append(ids)
    with Memory.create(tmp_path / "m", encoder_of.identity(), encoder_of) as memory:
        memory.append(ids)
    with Memory.open(tmp_path / "m", encoder_of.identity()) as memory:
        assert np.array_equal(memory.gists(1, nodes), in_ram.gists(1, nodes))
        assert np.array_equal(memory.gists(2, nodes[:1]), in_ram.gists(2, nodes[:1]))


def test_another_base_or_gist_token_makes_other_gists_and_lensnet_does_not(tokenizer):
    identities = []
    for change in (
        lambda bundle: None,
        lambda bundle: bundle.base.lm_head.weight.data.add_(1),
        lambda bundle: bundle.gist_tokens.level.data.add_(1),
        lambda bundle: bundle.lens.scalar.bias.data.add_(1),
    ):
        bundle = with_tokens(tokenizer)
        change(bundle)
        identities.append(BundleEncoder(bundle).identity())
    assert identities[0] == identities[3] and len(set(identities)) == 3


def test_a_bundle_with_gist_tokens_is_loaded_as_it_was_saved(made, tmp_path):
    made.save(tmp_path / "model")
    loaded = Bundle.load(tmp_path / "model")
    assert loaded.config == made.config and loaded.fingerprint() == made.fingerprint()
    assert torch.equal(loaded.gist_tokens.level, made.gist_tokens.level)
    assert loaded.lens.config == made.lens.config


def test_the_shipped_bundle_has_none_and_keeps_its_fingerprint():
    shipped = Bundle.load(data_root() / "tiny")
    assert shipped.gist_tokens is None and shipped.config.gists == "embedding"
    assert shipped.fingerprint() == SHIPPED
    assert not BundleEncoder(shipped).cached_gists


def test_a_description_of_another_kind_than_its_weights_is_refused(tokenizer, tmp_path):
    random_bundle(tokenizer).save(tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    path.write_text(path.read_text().replace('"gists": "embedding"', '"gists": "tokens"'))
    with pytest.raises(CheckpointError, match=r"the weights of gist_tokens must fit model\.json"):
        Bundle.load(tmp_path / "model")
    path.write_text(path.read_text().replace('"gists": "tokens"', '"gists": "words"'))
    with pytest.raises(CheckpointError, match=r"must be whole, but model\.json: gists must be"):
        Bundle.load(tmp_path / "model")


def test_a_kind_that_there_is_not_is_named_with_those_that_there_are():
    with pytest.raises(UnknownVariantError, match=r"embedding.*tokens"):
        GIST_KINDS.get("words")


def test_left_tokens_are_not_negative():
    with pytest.raises(ConfigError, match=r"gist_tokens.left_tokens must not be negative"):
        GistTokensConfig(left_tokens=-1)
