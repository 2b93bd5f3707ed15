"""Entries that are keys and values of every layer: taken out of one cache, packed as a vector, put into another.

A cache gist stands for its span by what the model's own attention would find there, so no edit of the context around it
changes it. Keys are kept without their rotation and are turned to wherever the entry stands now. What an entry has no
part in: value embeddings and smear, which belong to tokens (the policy of `gpt`).

Deliberately knows nothing of how such an entry is made (that is learnt, or is a token's own), nor of how a model lays
out its cache: models that hold entries do that themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from megacontext.errors import ShapeError


@dataclass(frozen=True)
class CacheEntries:
    """Keys and values (L, B, n, Hkv, D) of n entries; keys unrotated."""

    keys: Tensor
    values: Tensor

    def packed(self) -> Tensor:
        """One vector an entry, (B, n, 2 * L * Hkv * D): what a tree stores."""
        both = torch.stack((self.keys, self.values))  # (2, L, B, n, Hkv, D)
        return both.permute(2, 3, 0, 1, 4, 5).flatten(2)

    @classmethod
    def unpacked(cls, vectors: Tensor, base: HoldsEntries) -> CacheEntries:
        """From vectors (B, n, 2 * L * Hkv * D). Raises ShapeError for another width."""
        width = entry_width(base)
        if vectors.ndim != 3 or vectors.shape[2] != width:
            raise ShapeError(
                f"an entry of {base.entry_shape[0]} layers of keys and values has {width} numbers, got vectors "
                f"{tuple(vectors.shape)}; use those that were made with this base model"
            )
        both = vectors.unflatten(2, (2, *base.entry_shape)).permute(2, 3, 0, 1, 4, 5)
        return cls(both[0], both[1])


@runtime_checkable
class HoldsEntries(Protocol):
    """A base model whose caches entries can be taken out of and put into."""

    @property
    def entry_shape(self) -> tuple[int, int, int]:
        """L, Hkv, D: layers, key/value heads, head width."""
        ...

    def turn(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys (..., D) rotated on by positions (...), in tokens: forward, or back where they are negative."""
        ...

    def cached(self, cache: Any, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values (L, B, n, Hkv, D) of entries [start, stop) of a cache, keys as attention meets them."""
        ...

    def append_cached(self, cache: Any, keys: Tensor, values: Tensor) -> None:
        """Write keys, as attention meets them, and values (L, B, n, Hkv, D) behind what a cache holds."""
        ...

    def origin(self, cache: Any, positions: Tensor) -> Tensor:
        """Where a cache counts positions from, (B or 1, 1); an empty one is to count for entries at `positions`."""
        ...


def entry_width(base: HoldsEntries) -> int:
    """Numbers of a packed entry."""
    layers, heads, width = base.entry_shape
    return 2 * layers * heads * width


def take_entries(base: HoldsEntries, cache: Any, start: int, stop: int, positions: Tensor) -> CacheEntries:
    """Entries [start, stop) of a cache, which stand at `positions` (B or 1, n) there. Raises ShapeError."""
    if not 0 <= start <= stop <= cache.length:
        raise ShapeError(f"a cache of {cache.length} entries has no entries [{start}, {stop}); ask for fewer")
    if tuple(positions.shape) not in {(cache.batch, stop - start), (1, stop - start)}:
        raise ShapeError(
            f"{stop - start} entries in {cache.batch} rows stand at positions (B or 1, n), got "
            f"{tuple(positions.shape)}; give those that they were read at"
        )
    keys, values = base.cached(cache, start, stop)
    return CacheEntries(base.turn(keys, -_places(base, cache, positions, keys)), values)


def put_entries(base: HoldsEntries, cache: Any, entries: CacheEntries, positions: Tensor) -> None:
    """Append entries to a cache, at `positions` (B or 1, n). Raises ShapeError where they do not fit."""
    shape, one = tuple(entries.keys.shape), base.entry_shape
    fits = len(shape) == 5 and (shape[0], *shape[3:]) == one and tuple(entries.values.shape) == shape
    if not (fits and tuple(positions.shape) in {(shape[1], shape[2]), (1, shape[2])}):
        raise ShapeError(
            f"entries need keys and values (L, B, n, Hkv, D) with L, Hkv, D = {one} and positions (B or 1, n), got "
            f"{shape}, {tuple(entries.values.shape)} and {tuple(positions.shape)}; use those that were made with this "
            "base model"
        )
    _, batch, count, _, _ = shape
    if not cache.has_room(batch, count):
        raise ShapeError(
            f"a cache holds what it was reserved for, {cache.room} entries in {cache.batch} rows, got {count} for "
            f"{batch} rows on top of {cache.length}; reserve a larger one"
        )
    if count:
        keys = base.turn(entries.keys, _places(base, cache, positions, entries.keys))
        base.append_cached(cache, keys, entries.values)


def _places(base: HoldsEntries, cache: Any, positions: Tensor, keys: Tensor) -> Tensor:
    """Positions (B or 1, n) as the cache counts them, for every key of (L, B, n, Hkv, D): (L, B, n, Hkv)."""
    return (positions - base.origin(cache, positions))[None, :, :, None].expand(keys.shape[:-1])
