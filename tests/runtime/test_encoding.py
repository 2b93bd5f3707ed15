"""The encoder is the networks, whatever the batch; addresses may look back, gists see their own block."""

import numpy as np
import pytest
import torch
from toys import K, ids_of

from megacontext.gistnet.address import AddressNet
from megacontext.tree import GistEncoder, Memory
from megacontext.tree.encoder import left_windows

LEFT = 4


def blocks_of(count):
    blocks = ids_of(count * K).reshape(count, K)
    return blocks, left_windows(np.full(LEFT, -1, dtype=np.int32), blocks, LEFT)


def test_it_is_the_encoder_that_a_memory_asks_for(encoder):
    assert isinstance(encoder, GistEncoder)
    assert (encoder.block_size, encoder.left_tokens, encoder.gist_width, encoder.address_width) == (
        K,
        LEFT,
        32,
        16,
    )


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257])
def test_blocks_get_the_vectors_of_the_networks(encoder, bundle, count):
    blocks, left = blocks_of(count)
    gists, addresses = encoder.encode_blocks(blocks, left)
    assert gists.shape == (count, 32) and addresses.shape == (count, 16)
    assert gists.dtype == addresses.dtype == np.float32
    with torch.inference_mode():
        ids = torch.from_numpy(blocks).long()
        expected = bundle.gistnet(bundle.base.embed(ids), 1)
        seen = torch.cat((torch.from_numpy(left).long(), ids), dim=1)
        np.testing.assert_allclose(gists, expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(addresses, bundle.address(seen, AddressNet.BLOCK).numpy(), atol=1e-5)


def test_an_address_looks_back_and_a_gist_does_not(encoder):
    blocks, left = blocks_of(3)
    gists, addresses = encoder.encode_blocks(blocks, left)
    other_gists, other_addresses = encoder.encode_blocks(blocks, (left + 7) % 500)
    np.testing.assert_array_equal(gists, other_gists)
    assert (np.abs(addresses - other_addresses).max(axis=1) > 1e-4).all()


def test_a_question_longer_than_the_net_reads_is_cut_at_its_beginning(encoder, bundle):
    longest = bundle.config.address.longest_question
    ids = ids_of(longest + 9)
    assert np.array_equal(encoder.encode_question(ids), encoder.encode_question(ids[-longest:]))
    assert not np.allclose(encoder.encode_question(ids), encoder.encode_question(ids[:longest]))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 31, 32, 33, 97])
def test_a_block_gets_the_same_vectors_in_every_batch_bit_for_bit(encoder, count):
    blocks, left = blocks_of(97)
    gists, addresses = encoder.encode_blocks(blocks, left)
    some_gists, some_addresses = encoder.encode_blocks(blocks[97 - count :], left[97 - count :])
    assert np.array_equal(some_gists, gists[97 - count :]) and some_gists.shape == (count, 32)
    assert np.array_equal(some_addresses, addresses[97 - count :]) and some_addresses.shape == (count, 16)
    children = np.random.default_rng(0).standard_normal((97, K, 32), dtype=np.float32)
    parents = encoder.encode_parents(children, 2)
    assert np.array_equal(encoder.encode_parents(children[:count], 2), parents[:count])


@pytest.mark.parametrize("step", [1, K - 1, K, K + 1, 61])
def test_a_memory_appended_in_pieces_is_the_one_appended_at_once_bit_for_bit(encoder, step):
    ids = ids_of(3 * K * K + K + 3)
    at_once, piecewise = (Memory.create(None, encoder.identity(), encoder) for _ in range(2))
    at_once.append(ids)
    for start in range(0, len(ids), step):
        piecewise.append(ids[start : start + step])
    assert np.array_equal(piecewise.tokens(0, len(ids)), ids)
    assert np.array_equal(piecewise.addresses(), at_once.addresses())
    for lod in (1, 2):
        nodes = np.arange(at_once.count(lod))
        assert np.array_equal(piecewise.gists(lod, nodes), at_once.gists(lod, nodes))


def test_ingest_is_costed_and_does_not_depend_on_the_history(encoder, bundle):
    parameters = sum(p.numel() for p in (*bundle.gistnet.parameters(), *bundle.address.layers.parameters()))
    assert parameters < encoder.flops_per_token() < 10 * parameters
