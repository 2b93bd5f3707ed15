"""Both losses are nothing where gists are the tokens themselves, and something where they are not."""

import numpy as np
import pytest
import torch

from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig
from megacontext.models.block_caches import read_segment
from megacontext.models.entries import CacheEntries
from megacontext.runtime.gist_windows import WindowShape, pooled_gists, scored_hidden
from megacontext.train.pooled.matching import matching_loss


def net_of(decoder, block_size):
    torch.manual_seed(0)
    return PooledCache(PooledCacheConfig(), entry_shape=decoder.base.entry_shape, block_size=block_size)


def segment(decoder, toy_folder, tokens, start=0):
    ids = decoder.encode((toy_folder / "a.txt").read_text())[start : start + tokens]
    return torch.from_numpy(np.array(ids))


def shape_of(block_size, distant=4):
    return WindowShape(block_size=block_size, distant_blocks=distant, raw_tokens=5, scored_tokens=6)


def test_attention_over_blocks_of_one_token_is_attention_over_the_tokens(decoder, toy_folder):
    """A gist of one token is that token: the two sides differ by rounding alone."""
    ids, chance = segment(decoder, toy_folder, 60), torch.Generator().manual_seed(0)
    loss = matching_loss(decoder.base, net_of(decoder, 1), ids, decoder.sink_id, 30, chance)
    assert 0 <= loss.item() < 1e-8
    coarse = matching_loss(decoder.base, net_of(decoder, 4), ids, decoder.sink_id, 30, chance)
    assert coarse.item() > 1e-3


def test_equal_seeds_draw_equal_places(decoder, toy_folder):
    ids, net = segment(decoder, toy_folder, 64), net_of(decoder, 4)
    first, second, other = (
        matching_loss(decoder.base, net, ids, decoder.sink_id, 16, torch.Generator().manual_seed(seed)).item()
        for seed in (1, 1, 2)
    )
    assert first == second != other


@pytest.mark.parametrize("distant", [1, 4])
def test_behind_the_tokens_own_keys_and_values_the_decoder_says_what_it_says_behind_the_tokens(
    distant, decoder, toy_folder
):
    shape = shape_of(4, distant)
    ids, starts = segment(decoder, toy_folder, 48), torch.tensor([0, 3, 5])
    caches = read_segment(decoder.base, ids, 4, decoder.sink_id)
    full = scored_hidden(decoder.base, caches, shape, starts, shape.rows(ids, starts, distant * 4))
    # Blocks of one token: as many gists as tokens, each of them exact.
    single = read_segment(decoder.base, ids, 1, decoder.sink_id)
    fine = WindowShape(block_size=1, distant_blocks=4 * distant, raw_tokens=5, scored_tokens=6)
    gists = pooled_gists(net_of(decoder, 1), decoder.base, single, fine.gist_blocks(starts * 4))
    found = scored_hidden(decoder.base, single, fine, starts * 4, fine.rows(ids, starts * 4), gists)
    assert found.shape == full.shape == (3, 6, decoder.base.width)
    # A window's tokens were read behind their whole segment, the rows of `full` behind their window alone: the first
    # window begins with the segment, so there they are the same.
    torch.testing.assert_close(found[0], full[0], atol=2e-5, rtol=1e-4)


def test_windows_name_the_tokens_that_they_say():
    ids, shape = torch.arange(100), shape_of(4)
    starts = torch.tensor([0, 2])
    assert shape.blocks == 4 + 3
    assert shape.rows(ids, starts).tolist() == [list(range(16, 27)), list(range(24, 35))]
    assert shape.rows(ids, starts, 4)[1].tolist() == list(range(20, 35))
    assert shape.gist_blocks(starts).tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert shape.middles(starts)[1].tolist() == [9.5, 13.5, 17.5, 21.5]


def test_a_constant_prefix_is_the_same_in_every_window(decoder, toy_folder):
    ids = segment(decoder, toy_folder, 48)
    caches = read_segment(decoder.base, ids, 4, decoder.sink_id)
    layers, heads, width = decoder.base.entry_shape
    prefix = ConstantPrefix(*torch.randn(2, layers, 4, heads, width))
    gists = pooled_gists(prefix, decoder.base, caches, shape_of(4).gist_blocks(torch.tensor([0, 3])))
    assert isinstance(gists, CacheEntries) and gists.keys.shape == (layers, 2, 4, heads, width)
    assert torch.equal(gists.keys[:, 0], gists.keys[:, 1])


def test_a_segment_is_read_behind_the_sink_alone_whatever_stands_around_it(decoder, toy_folder):
    whole = segment(decoder, toy_folder, 64)
    caches = read_segment(decoder.base, whole[16:48], 8, decoder.sink_id)
    again = read_segment(decoder.base, whole[16:40], 8, decoder.sink_id)
    torch.testing.assert_close(caches.blocks.keys[:, :3], again.blocks.keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(caches.sink.values, again.sink.values)
    assert caches.blocks.keys.shape[1:3] == (4, 8) and caches.hidden.shape == (32, decoder.base.width)
