"""Keys and values of whole blocks, as a base model computes them: what pooled gists are made of.

A history is cut into segments at fixed places. A segment is read behind one sink token and nothing else, so what the
keys and values of a block are depends on its own segment alone: they can be made again exactly, at any time, and as
soon as the block is finished. A segment of one block reads it alone.

The sink: a decoder gives its first entry attention that belongs nowhere (Xiao et al., 2309.17453). Without one of its
own, the first block of a segment would serve as the sink, and a gist of it would take that away from every reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.errors import ShapeError
from megacontext.models.base import BaseModel
from megacontext.models.entries import CacheEntries, HoldsEntries, take_entries


@dataclass(frozen=True)
class SegmentCaches:
    """What a base model made of a segment of N blocks of K tokens. Keys are unrotated."""

    blocks: CacheEntries
    """(L, N, K, Hkv, D)."""
    sink: CacheEntries
    """(L, 1, 1, Hkv, D): of the token before the segment."""
    hidden: Tensor
    """(N * K, E)."""


@torch.no_grad()
def read_segment(base: BaseModel, ids: Tensor, block_size: int, sink_id: int) -> SegmentCaches:
    """Read a segment `ids` (N * K,) of whole blocks behind the token `sink_id`.

    Raises ShapeError for a segment that is not whole blocks, or a model that holds no entries.
    """
    (tokens,) = ids.shape
    if not tokens or tokens % block_size or not isinstance(base, HoldsEntries):
        raise ShapeError(
            f"block caches are of whole blocks of {block_size} tokens and a model that holds entries, got a segment of "
            f"{tokens} tokens and {type(base).__name__}; cut it, or use our GPT or a plain rotary decoder"
        )
    row = torch.cat((ids.new_tensor([sink_id]), ids))[None]
    positions = torch.arange(-1, tokens, device=ids.device)[None]
    cache = base.reserve(1, tokens + 1)
    hidden = base(base.embed(row), positions, ids=row, cache=cache)
    sink = take_entries(base, cache, 0, 1, positions[:, :1])
    entries = take_entries(base, cache, 1, tokens + 1, positions[:, 1:])
    shape = (tokens // block_size, block_size)
    blocks = CacheEntries(*(one[:, 0].unflatten(1, shape) for one in (entries.keys, entries.values)))
    return SegmentCaches(blocks, sink, hidden[0, 1:])
