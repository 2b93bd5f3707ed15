"""Keys and values of whole blocks, as a base model computes them: what pooled gists are made of.

A block is read behind the blocks before it in its own segment and nothing else. Segments are cut at fixed places of
the history, so what a block's keys and values are depends on its own segment alone: they can be made again exactly,
at any time, and as soon as the block is finished. A segment of one block reads it alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.errors import ShapeError
from megacontext.models.base import BaseModel
from megacontext.models.entries import CacheEntries, HoldsEntries, take_entries


@torch.no_grad()
def block_caches(base: BaseModel, ids: Tensor, block_size: int) -> tuple[CacheEntries, Tensor]:
    """Keys and values (L, B * n, K, Hkv, D) of segments `ids` (B, n * K), and the hidden states (B, n * K, E).

    Keys are unrotated. Raises ShapeError for segments that are not whole blocks, or a model that holds no entries.
    """
    rows, tokens = ids.shape
    if not tokens or tokens % block_size or not isinstance(base, HoldsEntries):
        raise ShapeError(
            f"block caches are of whole blocks of {block_size} tokens and a model that holds entries, got segments of "
            f"{tokens} tokens and {type(base).__name__}; cut them, or use our GPT or a plain rotary decoder"
        )
    positions = torch.arange(tokens, device=ids.device)[None]
    cache = base.reserve(rows, tokens)
    hidden = base(base.embed(ids), positions, ids=ids, cache=cache)
    entries = take_entries(base, cache, 0, tokens, positions)
    blocks = tokens // block_size
    keys, values = (
        one.unflatten(2, (blocks, block_size)).flatten(1, 2) for one in (entries.keys, entries.values)
    )
    return CacheEntries(keys, values), hidden
