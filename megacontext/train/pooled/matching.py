"""The first stage: attention over gists is to give what attention over their tokens gives, layer by layer.

For queries of a segment the outputs of each head are compared, where the past is there as tokens and where all but the
nearest blocks of it are gists. Nothing is sent back through the decoder: one pass over a segment gives every layer,
every head and every block something to learn from, so that minutes suffice (to meet a cache's attention rather than
its entries: Zweiger et al., 2602.16284, there for one cache at a time). What it leaves to the second stage: errors of
early layers change what later ones are asked.

A level above is met the same way: a node of K blocks, behind it some gists of blocks and the nearest tokens, which are
there in both; only the node is once its tokens and once one gist of gists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.gistnet.pooled import PooledCache
from megacontext.models.block_caches import SegmentCaches, read_segment
from megacontext.models.entries import CacheEntries
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.models.huggingface.queries import QueryWatch

_NEAR_BLOCKS = 2
"""Blocks before a query's own that stay tokens."""
_FARTHEST_BLOCKS = 32
_LEAST_BLOCKS = 4
"""Gists that a query sees: between these, drawn for each, as far as there are so many."""
_BETWEEN_BLOCKS = 16
"""Gists of blocks between a node and the nearest tokens: at most so many, drawn for each query."""
_NEVER = float("-inf")


@dataclass(frozen=True)
class WatchedSegment:
    """A segment's caches, and what its layers' attention was asked for."""

    caches: SegmentCaches
    watch: QueryWatch


def watch_segment(base: HuggingFaceBase, ids: Tensor, block_size: int, sink_id: int) -> WatchedSegment:
    """Read a segment `ids` (N * K,) behind `sink_id`, and note its queries."""
    with QueryWatch(base) as watch:
        return WatchedSegment(read_segment(base, ids, block_size, sink_id), watch)


def matching_loss(
    base: HuggingFaceBase,
    net: PooledCache,
    read: WatchedSegment,
    queries: int,
    chance: torch.Generator,
    blocks_read: CacheEntries | None = None,
) -> Tensor:
    """Squared error of attention's outputs over their mean square, meaned over heads and layers; a scalar.

    Queries stand at `queries` places drawn by `chance`, blocks are gists of LOD1: of `blocks_read` (L, N, K, Hkv, D),
    where the blocks were read in another way than the tokens that are to be met.
    """
    tokens, blocks = _Places.of(read, net.block_size)
    first_place = min(len(tokens.at) // 4, 16 * net.block_size)
    places = _drawn(len(tokens.at), first_place, queries, chance, tokens.at.device)
    near = places // net.block_size - _NEAR_BLOCKS
    seen_gists = torch.randint(_LEAST_BLOCKS, _FARTHEST_BLOCKS + 1, (len(places),), generator=chance)
    far = (near - seen_gists.to(near.device)).clamp_min(0)
    in_past = tokens.within(far, near.new_full(near.shape, len(blocks.at))) & (tokens.at <= places[:, None])
    pooled = read.caches.blocks if blocks_read is None else blocks_read
    gists = CacheEntries(*net(pooled.keys, pooled.values, base.turn))  # (L, N, Hkv, D)
    return _error(
        base,
        read,
        places,
        [(gists, blocks.at), (_flat(read.caches.blocks), tokens.at)],
        wanted=torch.cat((blocks.none(places), in_past), dim=1),
        found=torch.cat((blocks.within(far, near), in_past & (tokens.block >= near[:, None])), dim=1),
    )


def parent_matching_loss(
    base: HuggingFaceBase,
    net: PooledCache,
    gists: CacheEntries,
    read: WatchedSegment,
    queries: int,
    chance: torch.Generator,
) -> Tensor:
    """The same of gists of gists, made of the blocks' gists (L, N, Hkv, D); a node may begin at any block.

    Raises ConfigError for a segment too short to hold a node and a query behind it.
    """
    size = net.block_size
    tokens, blocks = _Places.of(read, size)
    first_place = (size + _NEAR_BLOCKS) * size
    if first_place >= len(tokens.at):
        raise ConfigError(
            f"gists of gists are met in segments of more than {size + _NEAR_BLOCKS} blocks, got {len(blocks.at)}; "
            "raise segment_blocks or set matching.steps = 0"
        )
    places = _drawn(len(tokens.at), first_place, queries, chance, tokens.at.device)
    near = places // size - _NEAR_BLOCKS
    between = torch.randint(0, _BETWEEN_BLOCKS + 1, (len(places),), generator=chance).to(near.device)
    far = torch.maximum(near - between, near.new_full((), size))  # where the node of each query ends
    starts = torch.arange(len(blocks.at) - size + 1, device=near.device)
    members = starts[:, None] + torch.arange(size, device=near.device)
    parents = CacheEntries(*net(gists.keys[:, members], gists.values[:, members], base.turn, lod=2))
    near_tokens = (tokens.at <= places[:, None]) & (tokens.block >= near[:, None])
    own_parent, same_gists = starts == (far - size)[:, None], blocks.within(far, near)
    return _error(
        base,
        read,
        places,
        [
            (parents, starts * size + (size * size - 1) / 2),
            (gists, blocks.at),
            (_flat(read.caches.blocks), tokens.at),
        ],
        wanted=torch.cat(
            (torch.zeros_like(own_parent), same_gists, near_tokens | tokens.within(far - size, far)), dim=1
        ),
        found=torch.cat((own_parent, same_gists, near_tokens), dim=1),
    )


@dataclass(frozen=True)
class _Places:
    """Where tokens, or gists of blocks, stand (S,), and the blocks that they belong to (S,)."""

    at: Tensor
    block: Tensor

    @classmethod
    def of(cls, read: WatchedSegment, size: int) -> tuple[_Places, _Places]:
        """Of a segment's tokens and of its blocks."""
        count = read.caches.blocks.keys.shape[1]
        token = torch.arange(count * size, device=read.caches.hidden.device)
        block = token[:count]
        return cls(token, token // size), cls(block * size + (size - 1) / 2, block)

    def within(self, first: Tensor, stop: Tensor) -> Tensor:
        """Which of them lie in blocks [first, stop), for each query (Q,): (Q, S)."""
        return (self.block >= first[:, None]) & (self.block < stop[:, None])

    def none(self, queries: Tensor) -> Tensor:
        """None of them, for any query (Q,): (Q, S)."""
        return torch.zeros(len(queries), len(self.at), dtype=torch.bool, device=self.at.device)


def _drawn(tokens: int, first: int, count: int, chance: torch.Generator, device: torch.device) -> Tensor:
    """Places of queries in [first, tokens), in order."""
    return (torch.randperm(tokens - first, generator=chance)[:count].sort().values + first).to(device)


def _flat(blocks: CacheEntries) -> CacheEntries:
    """Entries (L, N, K, Hkv, D) of blocks as those of their tokens, (L, N * K, Hkv, D)."""
    return CacheEntries(blocks.keys.flatten(1, 2), blocks.values.flatten(1, 2))


def _error(
    base: HuggingFaceBase,
    read: WatchedSegment,
    places: Tensor,
    entries: list[tuple[CacheEntries, Tensor]],
    wanted: Tensor,
    found: Tensor,
) -> Tensor:
    """How far attention over the entries `found` is from attention over those `wanted`, (Q, S) each; all see the sink.

    `entries` are keys and values (L, n, Hkv, D) with the positions (n,) that they stand at, S in all.
    """
    total = torch.zeros((), device=places.device)
    layers, sink = base.entry_shape[0], read.caches.sink
    for layer in range(layers):
        asked = _turned(base, read.watch.queries(layer)[places + 1], places)  # (Q, H, D); the sink is at 0
        held = _Held(asked, sink.keys.shape[3])
        at_sink = held.logits(_turned(base, sink.keys[layer, 0], places[:1] * 0 - 1))
        logits = torch.cat(
            [held.logits(_turned(base, one.keys[layer], at)) for one, at in entries], dim=-1
        )  # (Hkv, H / Hkv, Q, S)
        values = torch.cat(
            [sink.values[layer, 0].float()] + [one.values[layer].float() for one, _ in entries]
        )
        with torch.no_grad():
            target = _attend(torch.cat((at_sink, logits.masked_fill(~wanted, _NEVER)), dim=-1), values)
        said = _attend(torch.cat((at_sink, logits.masked_fill(~found, _NEVER)), dim=-1), values)
        error, scale = ((said - target) ** 2).sum(dim=-1), (target**2).sum(dim=-1)  # (Hkv, H / Hkv, Q)
        total = total + (error.mean(dim=2) / scale.mean(dim=2)).mean()
    return total / layers


class _Held:
    """Queries (Q, H, D) of one layer, in the groups that share a key."""

    def __init__(self, queries: Tensor, kv_heads: int):
        self._groups = queries.unflatten(1, (kv_heads, -1))

    def logits(self, keys: Tensor) -> Tensor:
        """Against keys (S, Hkv, D): (Hkv, H / Hkv, Q, S)."""
        return torch.einsum("qhgd,shd->hgqs", self._groups, keys)


def _turned(base: HuggingFaceBase, rows: Tensor, positions: Tensor) -> Tensor:
    """Rows (n, H, D), each at its position, in float32."""
    return base.turn(rows.float(), positions[:, None].expand(rows.shape[:2]).to(torch.float64))


def _attend(logits: Tensor, values: Tensor) -> Tensor:
    """Softmax of logits (Hkv, G, Q, S) over values (S, Hkv, D): (Hkv, G, Q, D)."""
    return torch.einsum("hgqs,shd->hgqd", logits.softmax(dim=-1), values)
