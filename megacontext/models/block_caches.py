"""Keys and values of whole blocks, as a base model computes them: what pooled gists are made of.

A history is cut into segments at fixed places. A segment is read behind one sink token and nothing else, so what the
keys and values of a block are depends on its own segment alone: they can be made again exactly, at any time, and as
soon as the block is finished. Pieces of a segment may be read apart, down to every block alone.

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
    _check(base, ids, block_size)
    (tokens,) = ids.shape
    row = torch.cat((ids.new_tensor([sink_id]), ids))[None]
    positions = torch.arange(-1, tokens, device=ids.device)[None]
    cache = base.reserve(1, tokens + 1)
    hidden = base(base.embed(row), positions, ids=row, cache=cache)
    sink = take_entries(base, cache, 0, 1, positions[:, :1])
    entries = take_entries(base, cache, 1, tokens + 1, positions[:, 1:])
    shape = (tokens // block_size, block_size)
    blocks = CacheEntries(*(one[:, 0].unflatten(1, shape) for one in (entries.keys, entries.values)))
    return SegmentCaches(blocks, sink, hidden[0, 1:])


@torch.no_grad()
def read_apart(
    base: BaseModel, ids: Tensor, block_size: int, sink_id: int, piece_blocks: int
) -> CacheEntries:
    """Caches (L, N, K, Hkv, D) of a segment `ids` (N * K,) whose pieces of so many blocks are each read by itself.

    Every piece, the last of which may be shorter, stands behind the token `sink_id` and nothing else. Raises
    ShapeError.
    """
    _check(base, ids, block_size)
    if piece_blocks < 1:
        raise ShapeError(f"a piece of a segment has at least 1 block, got {piece_blocks}; raise it")
    size, whole = piece_blocks * block_size, len(ids) // (piece_blocks * block_size)
    pieces = [ids[: whole * size].view(whole, size)] if whole else []
    if len(ids) > whole * size:
        pieces.append(ids[whole * size :][None])
    read = [_read_rows(base, rows, block_size, sink_id) for rows in pieces]
    return CacheEntries(
        torch.cat([one.keys for one in read], dim=1), torch.cat([one.values for one in read], dim=1)
    )


def _read_rows(base: BaseModel, rows: Tensor, block_size: int, sink_id: int) -> CacheEntries:
    """Caches (L, P * n, K, Hkv, D) of pieces (P, n * K), side by side."""
    assert isinstance(base, HoldsEntries)
    count, tokens = rows.shape
    rows = torch.cat((rows.new_full((count, 1), sink_id), rows), dim=1)
    positions = torch.arange(-1, tokens, device=rows.device)[None]
    cache = base.reserve(count, tokens + 1)
    base(base.embed(rows), positions, ids=rows, cache=cache)
    entries = take_entries(base, cache, 1, tokens + 1, positions[:, 1:])
    blocks = tokens // block_size
    return CacheEntries(
        *(one.unflatten(2, (blocks, block_size)).flatten(1, 2) for one in (entries.keys, entries.values))
    )


def _check(base: BaseModel, ids: Tensor, block_size: int) -> None:
    (tokens,) = ids.shape
    if not tokens or tokens % block_size or not isinstance(base, HoldsEntries):
        raise ShapeError(
            f"block caches are of whole blocks of {block_size} tokens and a model that holds entries, got a segment of "
            f"{tokens} tokens and {type(base).__name__}; cut it, or use our GPT or a plain rotary decoder"
        )
