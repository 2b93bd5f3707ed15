"""Both losses are nothing where gists are the tokens themselves, and something where they are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from megacontext.errors import ConfigError, ShapeError
from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig
from megacontext.models.block_caches import read_apart, read_segment
from megacontext.models.entries import CacheEntries
from megacontext.runtime.gist_windows import (
    WindowShape,
    in_time_order,
    parent_gists,
    picked_gists,
    pooled_gists,
    scored_hidden,
)
from megacontext.train.pooled.matching import matching_loss, parent_matching_loss, watch_segment


def net_of(decoder, block_size, levels=1):
    torch.manual_seed(0)
    config = PooledCacheConfig(levels=levels)
    return PooledCache(config, entry_shape=decoder.base.entry_shape, block_size=block_size)


def attention_error(decoder, net, ids, queries, seed=0, pieces=None):
    read = watch_segment(decoder.base, ids, net.block_size, decoder.sink_id)
    apart = pieces and read_apart(decoder.base, ids, net.block_size, decoder.sink_id, pieces)
    chance = torch.Generator().manual_seed(seed)
    return matching_loss(decoder.base, net, read, queries, chance, apart).item()


def segment(decoder, toy_folder, tokens, start=0):
    ids = decoder.encode((toy_folder / "a.txt").read_text())[start : start + tokens]
    return torch.from_numpy(np.array(ids))


def shape_of(block_size, distant=4):
    return WindowShape(block_size=block_size, distant_blocks=distant, raw_tokens=5, scored_tokens=6)


def test_attention_over_blocks_of_one_token_is_attention_over_the_tokens(decoder, toy_folder):
    """A gist of one token is that token: the two sides differ by rounding alone."""
    ids = segment(decoder, toy_folder, 60)
    assert 0 <= attention_error(decoder, net_of(decoder, 1), ids, 30) < 1e-8
    assert attention_error(decoder, net_of(decoder, 4), ids, 30) > 1e-3


def test_equal_seeds_draw_equal_places(decoder, toy_folder):
    ids, net = segment(decoder, toy_folder, 64), net_of(decoder, 4)
    first, second, other = (attention_error(decoder, net, ids, 16, seed) for seed in (1, 1, 2))
    assert first == second != other


def test_gists_are_matched_as_they_are_made_of_pieces_read_apart(decoder, toy_folder):
    """One piece is the segment. Blocks read alone give other gists than those that saw what stands before them."""
    ids, net = segment(decoder, toy_folder, 64), net_of(decoder, 4)
    whole = attention_error(decoder, net, ids, 16)
    assert attention_error(decoder, net, ids, 16, pieces=16) == pytest.approx(whole, rel=1e-4)
    assert abs(attention_error(decoder, net, ids, 16, pieces=1) - whole) > 1e-3 * whole


def test_attention_over_a_gist_of_gists_is_that_over_a_node_that_has_one_token_only(decoder, toy_folder):
    """Nodes of one block of one token: the gist of gists is the token. Larger ones lose something, and it is learnt."""
    ids = segment(decoder, toy_folder, 60)

    def error(net):
        read = watch_segment(decoder.base, ids, net.block_size, decoder.sink_id)
        blocks = read.caches.blocks
        gists = CacheEntries(*net(blocks.keys, blocks.values, decoder.base.turn))
        chance = torch.Generator().manual_seed(0)
        return parent_matching_loss(decoder.base, net, gists, read, 30, chance)

    assert 0 <= error(net_of(decoder, 1, levels=2)).item() < 1e-8
    coarse = net_of(decoder, 4, levels=2)
    coarse.levels[0].requires_grad_(False)
    optimiser = torch.optim.Adam(coarse.levels[1].parameters(), lr=0.03)
    losses = []
    for _ in range(15):
        loss = error(coarse)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1e-4 and losses[-1] < 0.9 * losses[0]


def test_a_segment_that_no_node_fits_is_refused(decoder, toy_folder):
    net, ids = net_of(decoder, 4, levels=2), segment(decoder, toy_folder, 24)
    read = watch_segment(decoder.base, ids, 4, decoder.sink_id)
    gists = CacheEntries(*net(read.caches.blocks.keys, read.caches.blocks.values, decoder.base.turn))
    with pytest.raises(ConfigError, match="more than 6 blocks, got 6"):
        parent_matching_loss(decoder.base, net, gists, read, 8, torch.Generator())


@pytest.mark.parametrize("distant", [1, 4])
def test_behind_the_tokens_own_keys_and_values_the_decoder_says_what_it_says_behind_the_tokens(
    distant, decoder, toy_folder
):
    shape = shape_of(4, distant)
    ids, starts = segment(decoder, toy_folder, 48), torch.tensor([0, 3, 5])
    caches = read_segment(decoder.base, ids, 4, decoder.sink_id)
    full = scored_hidden(decoder.base, caches.sink, shape, starts, shape.rows(ids, starts, distant * 4))
    # Blocks of one token: as many gists as tokens, each of them exact.
    single = read_segment(decoder.base, ids, 1, decoder.sink_id)
    fine = WindowShape(block_size=1, distant_blocks=4 * distant, raw_tokens=5, scored_tokens=6)
    gists = pooled_gists(net_of(decoder, 1), decoder.base, single, fine.gist_blocks(starts * 4))
    found = scored_hidden(decoder.base, single.sink, fine, starts * 4, fine.rows(ids, starts * 4), gists)
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
    places, sink = shape.places(starts, 4)
    assert places[1].tolist() == [9.5, 13.5, 17.5, 21.5] and sink.tolist() == [-1.0, 7.0]
    places, sink = shape.places(starts, 2)
    assert places[1].tolist() == [17.5, 21.5] and sink.tolist() == [7.0, 15.0]


def test_nodes_of_the_second_level_stand_before_the_blocks():
    shape = WindowShape(block_size=4, distant_blocks=3, distant_parents=2, raw_tokens=5, scored_tokens=6)
    starts = torch.tensor([1])
    assert (shape.gists, shape.distant_tokens, shape.blocks) == (5, 44, 14)
    assert shape.parent_blocks(starts).tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]]]
    assert shape.gist_blocks(starts).tolist() == [[9, 10, 11]]
    assert shape.first_token(starts).tolist() == [48]
    places, sink = shape.places(starts, 5)
    assert places.tolist() == [[11.5, 27.5, 37.5, 41.5, 45.5]] and sink.tolist() == [3.0]
    places, sink = shape.places(starts, 3)
    assert places.tolist() == [[37.5, 41.5, 45.5]] and sink.tolist() == [35.0]


@pytest.mark.parametrize("reach", [20, 44, 45, 100])
def test_far_nodes_are_squeezed_into_the_reach_in_order_and_near_blocks_stay(reach):
    plain = WindowShape(block_size=4, distant_blocks=3, distant_parents=2, raw_tokens=5, scored_tokens=6)
    shape = replace(plain, reach_tokens=reach)
    starts = torch.tensor([1, 7])
    (places, sink), (own, own_sink) = shape.places(starts, 5), plain.places(starts, 5)
    assert torch.equal(places[:, 2:], own[:, 2:])
    assert (places.diff(dim=1) > 0).all() and (sink < places[:, 0]).all()
    assert ((shape.first_token(starts) - sink) <= reach).all()
    assert torch.equal(places, own) == torch.equal(sink, own_sink) == (reach >= 45)


def test_behind_gists_of_nodes_of_one_token_the_decoder_says_what_it_says_behind_the_tokens(
    decoder, toy_folder
):
    """Both levels in one window: every gist is a token, and stands where the token stood."""
    ids, starts = segment(decoder, toy_folder, 48), torch.tensor([0])
    shape = WindowShape(block_size=1, distant_blocks=5, distant_parents=7, raw_tokens=5, scored_tokens=6)
    single, net = read_segment(decoder.base, ids, 1, decoder.sink_id), net_of(decoder, 1, levels=2)
    gists = CacheEntries(*net(single.blocks.keys, single.blocks.values, decoder.base.turn))
    mixed = in_time_order(
        [
            parent_gists(net, decoder.base, gists, shape.parent_blocks(starts)),
            picked_gists(gists, shape.gist_blocks(starts)),
        ]
    )
    found = scored_hidden(decoder.base, single.sink, shape, starts, shape.rows(ids, starts), mixed)
    full = scored_hidden(decoder.base, single.sink, shape, starts, shape.rows(ids, starts, 12))
    torch.testing.assert_close(found, full, atol=2e-5, rtol=1e-4)


def test_a_constant_prefix_is_the_same_in_every_window(decoder, toy_folder):
    ids = segment(decoder, toy_folder, 48)
    caches = read_segment(decoder.base, ids, 4, decoder.sink_id)
    layers, heads, width = decoder.base.entry_shape
    prefix = ConstantPrefix(*torch.randn(2, layers, 4, heads, width))
    gists = pooled_gists(prefix, decoder.base, caches, shape_of(4).gist_blocks(torch.tensor([0, 3])))
    assert isinstance(gists, CacheEntries) and gists.keys.shape == (layers, 2, 4, heads, width)
    assert torch.equal(gists.keys[:, 0], gists.keys[:, 1])


@pytest.mark.parametrize("pieces", [1, 2, 3, 8, 11])
def test_pieces_of_a_segment_are_read_as_if_each_were_one(pieces, decoder, toy_folder):
    whole = segment(decoder, toy_folder, 64)
    apart = read_apart(decoder.base, whole, 8, decoder.sink_id, pieces)
    assert apart.keys.shape[1:3] == (8, 8)
    for first in range(0, 8, pieces):
        alone = read_segment(decoder.base, whole[first * 8 : (first + pieces) * 8], 8, decoder.sink_id).blocks
        stop = first + alone.keys.shape[1]
        torch.testing.assert_close(apart.keys[:, first:stop], alone.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(apart.values[:, first:stop], alone.values, atol=1e-5, rtol=1e-5)
    behind = read_segment(decoder.base, whole, 8, decoder.sink_id).blocks.values
    assert torch.allclose(apart.values, behind, atol=1e-4) == (pieces >= 8), (
        "left context changes what a block is"
    )


def test_there_are_no_pieces_of_no_blocks(decoder, toy_folder):
    with pytest.raises(ShapeError, match="at least 1 block, got 0"):
        read_apart(decoder.base, segment(decoder, toy_folder, 16), 8, decoder.sink_id, 0)
    with pytest.raises(ShapeError, match="whole blocks of 8"):
        read_apart(decoder.base, segment(decoder, toy_folder, 17), 8, decoder.sink_id, 1)


def test_a_segment_is_read_behind_the_sink_alone_whatever_stands_around_it(decoder, toy_folder):
    whole = segment(decoder, toy_folder, 64)
    caches = read_segment(decoder.base, whole[16:48], 8, decoder.sink_id)
    again = read_segment(decoder.base, whole[16:40], 8, decoder.sink_id)
    torch.testing.assert_close(caches.blocks.keys[:, :3], again.blocks.keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(caches.sink.values, again.sink.values)
    assert caches.blocks.keys.shape[1:3] == (4, 8) and caches.hidden.shape == (32, decoder.base.width)
