"""Entries that are keys and values of every layer: taken out of one cache, packed as a vector, put into another.

A cache gist stands for its span by what the model's own attention would find there, so no edit of the context around it
changes it. Keys are kept without their rotation and are turned to wherever the entry stands now. What an entry has no
part in: value embeddings and smear, which belong to tokens (the policy of `gpt`).

Deliberately knows nothing of how such an entry is made; that is learnt, or is a token's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.attention.rotary import rotary_tables, rotate
from megacontext.errors import ShapeError
from megacontext.models.cache import KVCache
from megacontext.models.gpt import GPT


@dataclass(frozen=True)
class CacheEntries:
    """Keys and values (L, B, n, Hkv, D) of n entries; keys normed and unrotated."""

    keys: Tensor
    values: Tensor

    def packed(self) -> Tensor:
        """One vector an entry, (B, n, 2 * L * Hkv * D): what a tree stores."""
        both = torch.stack((self.keys, self.values))  # (2, L, B, n, Hkv, D)
        return both.permute(2, 3, 0, 1, 4, 5).flatten(2)

    @classmethod
    def unpacked(cls, vectors: Tensor, base: GPT) -> CacheEntries:
        """From vectors (B, n, 2 * L * Hkv * D). Raises ShapeError for another width."""
        config = base.config
        shape = (2, config.n_layer, config.n_kv_head, config.head_dim)
        width = entry_width(base)
        if vectors.ndim != 3 or vectors.shape[2] != width:
            raise ShapeError(
                f"an entry of {config.n_layer} layers of keys and values has {width} numbers, got vectors "
                f"{tuple(vectors.shape)}; use those that were made with this base model"
            )
        both = vectors.unflatten(2, shape).permute(2, 3, 0, 1, 4, 5)
        return cls(both[0], both[1])


def entry_width(base: GPT) -> int:
    """Numbers of a packed entry."""
    config = base.config
    return 2 * config.n_layer * config.n_kv_head * config.head_dim


def take_entries(base: GPT, cache: KVCache, start: int, stop: int, positions: Tensor) -> CacheEntries:
    """Entries [start, stop) of a cache, which stand at `positions` (B or 1, n) there. Raises ShapeError."""
    if not 0 <= start <= stop <= cache.length:
        raise ShapeError(f"a cache of {cache.length} entries has no entries [{start}, {stop}); ask for fewer")
    if tuple(positions.shape) not in {(cache.batch, stop - start), (1, stop - start)}:
        raise ShapeError(
            f"{stop - start} entries in {cache.batch} rows stand at positions (B or 1, n), got "
            f"{tuple(positions.shape)}; give those that they were read at"
        )
    back = rotary_tables(-positions, base.config.head_dim, base.dialect.rope_base)
    keys = torch.stack([rotate(layer[:, start:stop], back) for layer in cache.keys])
    return CacheEntries(keys, torch.stack([layer[:, start:stop] for layer in cache.values]))


def put_entries(base: GPT, cache: KVCache, entries: CacheEntries, positions: Tensor) -> None:
    """Append entries to a cache, at `positions` (B or 1, n). Raises ShapeError where they do not fit."""
    shape, config = tuple(entries.keys.shape), base.config
    one = (config.n_layer, config.n_kv_head, config.head_dim)
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
    tables = rotary_tables(positions, base.config.head_dim, base.dialect.rope_base)
    for layer, (keys, values) in enumerate(zip(entries.keys, entries.values, strict=True)):
        cache.extend(layer, rotate(keys, tables), values, first=cache.length)
    cache.mark(count, None)
    if base.dialect.smear:
        nothing = entries.keys.new_zeros(batch, count, base.width)
        cache.remember(nothing, torch.zeros(batch, count, 1, dtype=torch.bool, device=nothing.device))
    cache.length += count
