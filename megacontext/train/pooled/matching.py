"""The first stage: attention over gists is to give what attention over their tokens gives, layer by layer.

For queries of a segment the outputs of each head are compared, where the past is there as tokens and where all but the
nearest blocks of it are gists. Nothing is sent back through the decoder: one pass over a segment gives every layer,
every head and every block something to learn from, so that minutes suffice (to meet a cache's attention rather than
its entries: Zweiger et al., 2602.16284, there for one cache at a time). What it leaves to the second stage: errors of
early layers change what later ones are asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.gistnet.pooled import PooledCache
from megacontext.models.block_caches import read_segment
from megacontext.models.entries import CacheEntries
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.models.huggingface.queries import QueryWatch

_NEAR_BLOCKS = 2
"""Blocks before a query's own that stay tokens."""
_FARTHEST_BLOCKS = 32
_LEAST_BLOCKS = 4
"""Gists that a query sees: between these, drawn for each, as far as there are so many."""
_NEVER = float("-inf")


def matching_loss(
    base: HuggingFaceBase, net: PooledCache, ids: Tensor, sink_id: int, queries: int, chance: torch.Generator
) -> Tensor:
    """Squared error of attention's outputs over their mean square, meaned over heads and layers; a scalar.

    `ids` (N * K,) is a segment, read behind `sink_id`. Queries stand at `queries` places drawn by `chance`.
    """
    size = net.block_size
    with QueryWatch(base) as watch:
        caches = read_segment(base, ids, size, sink_id)
    blocks = len(ids) // size
    first_place = min(len(ids) // 4, 16 * size)
    drawn = torch.randperm(len(ids) - first_place, generator=chance)[:queries]
    places = (drawn.sort().values + first_place).to(ids.device)
    near = places // size - _NEAR_BLOCKS
    seen_gists = torch.randint(_LEAST_BLOCKS, _FARTHEST_BLOCKS + 1, (len(places),), generator=chance)
    far = (near - seen_gists.to(ids.device)).clamp_min(0)

    tokens = torch.arange(len(ids), device=ids.device)
    in_past = (tokens <= places[:, None]) & (tokens // size >= far[:, None])
    as_tokens = in_past & (tokens // size >= near[:, None])
    block = torch.arange(blocks, device=ids.device)
    as_gists = (block < near[:, None]) & (block >= far[:, None])

    gists = CacheEntries(*net(caches.blocks.keys, caches.blocks.values, base.turn))  # (L, N, Hkv, D)
    middles = block * size + (size - 1) / 2
    total = torch.zeros((), device=ids.device)
    layers = base.entry_shape[0]
    for layer in range(layers):
        keys, values = (
            one[layer].flatten(0, 1) for one in (caches.blocks.keys, caches.blocks.values)
        )  # (W, Hkv, D)
        asked = _turned(base, watch.queries(layer)[places + 1], places)  # (Q, H, D); the sink is at 0
        held = _Held(asked, keys.shape[1])
        sink = held.logits(_turned(base, caches.sink.keys[layer, 0], tokens[:1] - 1))
        plain = held.logits(_turned(base, keys, tokens))
        folded = held.logits(_turned(base, gists.keys[layer], middles))
        sink_value, plain_value = caches.sink.values[layer, 0].float(), values.float()
        with torch.no_grad():
            wanted = _attend(
                torch.cat((sink, plain.masked_fill(~in_past, _NEVER)), dim=-1),
                torch.cat((sink_value, plain_value)),
            )
        found = _attend(
            torch.cat(
                (sink, folded.masked_fill(~as_gists, _NEVER), plain.masked_fill(~as_tokens, _NEVER)), dim=-1
            ),
            torch.cat((sink_value, gists.values[layer].float(), plain_value)),
        )
        error, scale = ((found - wanted) ** 2).sum(dim=-1), (wanted**2).sum(dim=-1)  # (Hkv, H / Hkv, Q)
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
