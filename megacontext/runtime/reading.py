"""From the rows of a layout to what the base model reads: token ids, gists, positions.

This is the only place where levels of the tree become rows of a tensor. Raw tokens are read from the store again, so
detail that had been folded away comes back exactly. A gist is a vector in the input space, or, where its maker stored
keys and values of every layer, an entry that goes into the cache as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from megacontext.errors import ShapeError
from megacontext.focus.context import WorkingContext
from megacontext.models.base import NO_TOKEN, BaseModel
from megacontext.models.positions import PositionPolicy
from megacontext.runtime.layout import Rows, lay_out
from megacontext.tree.memory import Memory

_NOTHING = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class Frame:
    """Token ids that a model wants around what it reads: those of a chat's turns, say."""

    opening: np.ndarray = field(default_factory=lambda: _NOTHING)
    """Before the context."""
    asking: np.ndarray = field(default_factory=lambda: _NOTHING)
    """Between the context and the question."""
    closing: np.ndarray = field(default_factory=lambda: _NOTHING)
    """Behind the question."""
    instead_of: np.ndarray = field(default_factory=lambda: _NOTHING)
    """What a question may end with and the closing says in the model's own way: left out before it."""
    stops: frozenset[int] = frozenset()
    """What ends an answer, beside the end of a line."""

    def around(self, question: np.ndarray) -> np.ndarray:
        """What stands behind the context for a question's ids (P,)."""
        cut = len(question) - len(self.instead_of)
        if len(self.instead_of) and np.array_equal(question[max(0, cut) :], self.instead_of):
            question = question[:cut]
        return np.concatenate([self.asking, question, self.closing])

    def cost(self, question: np.ndarray) -> int:
        """Positions of a budget that a question takes with all that stands around it."""
        return len(self.opening) + len(self.around(question))


NO_FRAME = Frame()


@dataclass(frozen=True)
class Reading:
    """One working context with the prompt after it: W positions, exactly its rows plus the prompt's length."""

    ids: np.ndarray
    """int64 (W,): token ids, NO_TOKEN at gists."""
    gist_slots: np.ndarray
    """int64 (G,): where gists stand that are input embeddings."""
    gists: np.ndarray
    """float32 (G, E)."""
    positions: np.ndarray
    """float64 (W,)."""
    rows: Rows
    """Which node each position stands for."""
    cached_slots: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 (C,): where gists stand that are keys and values, in order."""
    cached: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    """float32 (C, 2 * L * Hkv * D): theirs, as `models.entries` packs them."""

    @property
    def cost(self) -> int:
        """Key/value positions that the first decoded token attends to."""
        return len(self.ids)


def read(
    context: WorkingContext | None,
    memory: Memory,
    prompt: np.ndarray,
    policy: PositionPolicy,
    *,
    layout: str = "timeline",
    covered: int = 0,
    cached_gists: bool = False,
    levels: int | None = None,
    gists: Memory | None = None,
    frame: Frame = NO_FRAME,
) -> Reading:
    """Fetch the tokens and gists of `context` and put `prompt` (P,) behind them; no context reads the prompt alone.

    `covered` is how many tokens the stable part of a cover-first layout stands for. `cached_gists` says that what
    is stored as gists are keys and values; `gists` is the memory that holds them, if it is another version. Gists
    above level `levels` are left out: their maker has not learnt that level, and their places stay empty.
    """
    behind = frame.around(prompt)
    if context is None:
        empty = np.zeros(0, dtype=np.int64)
        context = WorkingContext(empty, empty, 0, memory.block_size)
        rows = lay_out(context, len(behind), layout, policy, covered)
        shift = memory.num_tokens
        rows = Rows(rows.lod, rows.index + shift, rows.position + (shift if policy == "global" else 0))
    else:
        shift = context.num_tokens
        rows = lay_out(context, len(behind), layout, policy, covered)
    if levels is not None:
        rows = rows.only(rows.lod <= levels)
    rows = rows.behind(len(frame.opening))
    said = np.concatenate([frame.opening, behind])
    return _read_rows(rows, memory, gists or memory, said, len(frame.opening), shift, cached_gists)


def _read_rows(
    rows: Rows,
    memory: Memory,
    gists_from: Memory,
    said: np.ndarray,
    opening: int,
    num_tokens: int,
    cached_gists: bool,
) -> Reading:
    """What `rows` name: tokens before 0 and from `num_tokens` on are `said`, the first `opening` of them before."""
    ids = np.full(len(rows), NO_TOKEN, dtype=np.int64)
    is_token = rows.lod == 0
    before, behind = is_token & (rows.index < 0), is_token & (rows.index >= num_tokens)
    ids[before] = said[rows.index[before] + opening]
    ids[behind] = said[rows.index[behind] - num_tokens + opening]
    stored = is_token & ~before & ~behind
    ids[stored] = _tokens(memory, rows.index[stored], num_tokens)
    slots = np.flatnonzero(~is_token)
    gists = gists_from.gists_at(rows.lod[slots], rows.index[slots])
    if cached_gists:
        nothing = np.zeros(0, dtype=np.int64)
        return Reading(ids, nothing, np.zeros((0, 0), dtype=np.float32), rows.position, rows, slots, gists)
    return Reading(ids, slots, gists, rows.position, rows)


def _tokens(memory: Memory, index: np.ndarray, num_tokens: int) -> np.ndarray:
    """Ids of tokens of the history, in the order asked for; whole blocks at a time."""
    size = memory.block_size
    whole = num_tokens // size * size
    finished = index < whole
    ids = np.empty(len(index), dtype=np.int64)
    blocks, at = np.unique(index[finished] // size, return_inverse=True)
    ids[finished] = memory.blocks(blocks)[at, index[finished] % size]
    if not finished.all():
        ids[~finished] = memory.tokens(whole, num_tokens)[index[~finished] - whole]
    return ids


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
    """Tensors for `base` from readings of any lengths from 1 on.

    Raises ShapeError for an empty one, and for one with gists that are keys and values: those go into a cache, one
    reading at a time (`context_cache`).
    """
    if any(len(reading.cached_slots) for reading in readings):
        raise ShapeError(
            "readings side by side hold tokens and embedding gists, got cached ones; read them one by one"
        )
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
    with_gists = [reading.gists for reading in readings if len(reading.gists)]
    if with_gists:
        gists = torch.from_numpy(np.concatenate(with_gists))
        at = tuple(torch.from_numpy(np.concatenate(places)).to(device) for places in (rows, columns))
        embeddings = embeddings.index_put(at, gists.to(device, embeddings.dtype))
    return ReadingBatch(
        embeddings,
        id_rows,
        torch.from_numpy(positions).to(device),
        torch.from_numpy(padding).to(device) if padding.any() else None,
    )
