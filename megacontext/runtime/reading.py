"""From a working context to what the base model reads: token ids, gists, positions.

This is the only place where levels of the tree become rows of a tensor. Raw tokens are read from the store again, so
detail that had been folded away comes back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from megacontext.errors import ShapeError
from megacontext.focus.context import WorkingContext
from megacontext.models.base import NO_TOKEN, BaseModel
from megacontext.models.positions import PositionPolicy, entry_positions
from megacontext.tree.memory import Memory


@dataclass(frozen=True)
class Reading:
    """One working context with the prompt after it: W positions, exactly its cost plus the prompt's length."""

    ids: np.ndarray
    """int64 (W,): token ids, NO_TOKEN at gists."""
    gist_slots: np.ndarray
    """int64 (G,): where gists stand."""
    gists: np.ndarray
    """float32 (G, E)."""
    positions: np.ndarray
    """float64 (W,)."""

    @property
    def cost(self) -> int:
        """Key/value positions that the first decoded token attends to."""
        return len(self.ids)


def read(
    context: WorkingContext | None, memory: Memory, prompt: np.ndarray, policy: PositionPolicy
) -> Reading:
    """Fetch the tokens and gists of `context` and put `prompt` (P,) behind them; no context reads the prompt alone."""
    num_tokens = memory.num_tokens
    prompt_start = num_tokens + np.arange(len(prompt))
    if context is None or not len(context):
        positions = entry_positions(prompt_start, prompt_start + 1, policy)
        empty = np.zeros((0, memory.gist_width), dtype=np.float32)
        return Reading(prompt.astype(np.int64), np.zeros(0, dtype=np.int64), empty, positions)
    # (N,) entries -> (W,) positions: a raw entry gives one position a token, a gist gives one.
    owner = np.repeat(np.arange(len(context)), context.costs)
    first = np.cumsum(context.costs) - context.costs
    offset = np.arange(len(owner)) - first[owner]
    raw = context.lod[owner] == 0
    start = np.where(raw, context.start[owner] + offset, context.start[owner])
    stop = np.where(raw, start + 1, context.stop[owner])
    ids = np.full(len(owner), NO_TOKEN, dtype=np.int64)
    ids[raw] = _raw_tokens(context, memory)
    gist_slots = np.flatnonzero(~raw)
    gists = np.zeros((len(gist_slots), memory.gist_width), dtype=np.float32)
    folded = context.lod > 0
    lod, index = context.lod[folded], context.index[folded]
    for level in np.unique(lod):
        at = np.flatnonzero(lod == level)
        gists[at] = memory.gists(int(level), index[at])
    start, stop = np.concatenate((start, prompt_start)), np.concatenate((stop, prompt_start + 1))
    return Reading(np.concatenate((ids, prompt)), gist_slots, gists, entry_positions(start, stop, policy))


def _raw_tokens(context: WorkingContext, memory: Memory) -> np.ndarray:
    """Ids of all raw entries in time order."""
    size = context.block_size
    raw = context.lod == 0
    full = raw & (context.costs == size)
    parts = [memory.blocks(context.index[full]).reshape(-1)]
    if raw.any() and not full[raw][-1]:
        parts.append(memory.tokens(int(context.start[-1]), context.num_tokens))
    return np.concatenate(parts)


@dataclass(frozen=True)
class ReadingBatch:
    """Readings side by side, padded on the left so that all end together."""

    embeddings: torch.Tensor
    """(B, W, E)."""
    ids: torch.Tensor
    """int64 (B, W)."""
    positions: torch.Tensor
    """float64 (B, W)."""
    padding: torch.Tensor | None
    """bool (B, W): True for filling; None where there is none."""


def stack(readings: list[Reading], base: BaseModel) -> ReadingBatch:
    """Tensors for `base` from readings of any lengths from 1 on. Raises ShapeError for an empty one."""
    if not all(reading.cost for reading in readings):
        raise ShapeError("a reading needs at least one position, got none; ask something or read a context")
    width = max(reading.cost for reading in readings)
    ids = np.full((len(readings), width), NO_TOKEN, dtype=np.int64)
    positions = np.zeros((len(readings), width))
    padding = np.zeros((len(readings), width), dtype=bool)
    rows, columns = [], []
    for row, reading in enumerate(readings):
        pad = width - reading.cost
        ids[row, pad:], positions[row, pad:], padding[row, :pad] = reading.ids, reading.positions, True
        rows.append(np.full(len(reading.gist_slots), row))
        columns.append(pad + reading.gist_slots)
    device = base.device
    id_rows = torch.from_numpy(ids).to(device)
    embeddings = base.embed(id_rows.clamp_min(0)) * (id_rows >= 0)[..., None]
    gists = torch.from_numpy(np.concatenate([reading.gists for reading in readings]))
    if len(gists):
        at = tuple(torch.from_numpy(np.concatenate(places)).to(device) for places in (rows, columns))
        embeddings = embeddings.index_put(at, gists.to(device, embeddings.dtype))
    return ReadingBatch(
        embeddings,
        id_rows,
        torch.from_numpy(positions).to(device),
        torch.from_numpy(padding).to(device) if padding.any() else None,
    )
