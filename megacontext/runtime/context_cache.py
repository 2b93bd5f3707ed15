"""Keys and values of one context, kept from one reading to the next as far as they are still true.

A row's keys and values depend on itself and on all rows before it. So what may be kept of an older reading is
exactly its beginning, up to the first row that is another node or token, stands elsewhere, or has changed;
everything from there on is made again. Gists that are keys and values depend on nothing before them: they are put
in place, wherever they stand, and cost no arithmetic.

Content changes from below: when a node's tokens change, so do all its ancestors, up the levels, and every row
behind the first of them, forward in time. `invalidate` takes a span of tokens and finds that row.

Deliberately knows nothing of budgets or scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megacontext.errors import ShapeError
from megacontext.models.base import NO_TOKEN, BaseModel, Cache
from megacontext.models.entries import CacheEntries, HoldsEntries, put_entries
from megacontext.runtime.layout import Rows
from megacontext.runtime.reading import Reading

CACHED = NO_TOKEN - 1
"""What stands for the id of a gist that is keys and values."""


@dataclass(frozen=True)
class ReadReport:
    """What one reading took."""

    hidden: Tensor
    """(1, E): hidden state of the last row, ready for `unembed`."""
    rows: int
    reused: int
    """Leading rows whose keys and values were kept."""
    computed: int
    """Rows that the model was run on; the others were kept, or are gists that are keys and values."""

    @property
    def reused_share(self) -> float:
        """Share of the rows whose keys and values were kept."""
        return self.reused / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class NextToken:
    """A token behind what a cache holds."""

    token: int
    number: int
    """Which of the history it is."""
    position: float


class ContextCache:
    """Keys and values for readings of at most `room` positions, one after the other.

    They lie in `cache`, which is reserved unless it is given: empty, with that much room for one decoding.
    """

    def __init__(self, base: BaseModel, room: int, cache: Cache | None = None):
        self._base, self._room = base, room
        self._cache = base.reserve(1, room) if cache is None else cache
        self._rows = Rows(*(np.zeros(0, dtype=kind) for kind in (np.int64, np.int64, np.float64)))
        self._ids = np.zeros(0, dtype=np.int64)
        """int64 (W,): the id of each row that is a token, NO_TOKEN or CACHED for a gist."""

    def __len__(self) -> int:
        """Rows whose keys and values are held."""
        return len(self._rows)

    @property
    def rows(self) -> Rows:
        """The rows that are held, in order."""
        return self._rows

    def clear(self) -> None:
        """Forget everything: another model, another gist version."""
        self._keep(0)

    def invalidate(self, start: int, stop: int, block_size: int) -> int:
        """Tokens [start, stop) of a tree of that block size have changed; returns how many rows stay true."""
        width = block_size**self._rows.lod
        begins, ends = self._rows.index * width, (self._rows.index + 1) * width
        touched = np.flatnonzero((begins < stop) & (ends > start))
        if len(touched):
            self._keep(int(touched[0]))
        return len(self)

    @torch.inference_mode()
    def read(self, reading: Reading) -> ReadReport:
        """Bring the cache to `reading`. Whatever is raised, the rows that are held afterwards are true.

        Raises ShapeError for a reading that is empty, has no room or ends with a gist that is keys and values.
        """
        count = len(reading.rows)
        if not 0 < count <= self._room:
            raise ShapeError(
                f"a reading must have 1 to {self._room} positions to be cached, got {count}; reserve more room"
            )
        if len(reading.cached_slots) and reading.cached_slots[-1] == count - 1:
            raise ShapeError(
                "a reading must end with a token or an embedding gist, got cached keys and values; add a question"
            )
        ids = reading.ids.copy()
        ids[reading.cached_slots] = CACHED
        # The last row is always read: its hidden state is what is wanted.
        kept = min(self._same_start(reading.rows, ids), count - 1)
        self._keep(kept)
        with self._nothing_half_read():
            hidden, computed = self._run(reading, kept)
        self._rows, self._ids = reading.rows, ids
        return ReadReport(hidden, count, kept, computed)

    @torch.inference_mode()
    def step(self, step: NextToken) -> Tensor:
        """Read one more token; its hidden state (1, E). Raises ShapeError if full."""
        self.check_room()
        with self._nothing_half_read():
            hidden = self._forward(np.array([step.token]), np.array([step.position]), None)
        self.note(step)
        return hidden

    def check_room(self) -> None:
        """Raises ShapeError where one more token has no room."""
        if len(self) == self._room:
            raise ShapeError(f"a cache of {self._room} positions is full; read a smaller context first")

    def note(self, step: NextToken) -> None:
        """Its keys and values have been written behind those that are held: from now on they are held too."""
        self._rows = Rows(
            np.append(self._rows.lod, 0),
            np.append(self._rows.index, step.number),
            np.append(self._rows.position, step.position),
        )
        self._ids = np.append(self._ids, step.token)

    def _same_start(self, rows: Rows, ids: np.ndarray) -> int:
        """How many leading rows are held as a reading has them: node, position, kind, and of a token its id.

        The place behind a history is taken by a question first, and by what is heard later: its number alone says
        nothing of what stands there.
        """
        count = self._rows.same_start(rows)
        differs = self._ids[:count] != ids[:count]
        return int(differs.argmax()) if differs.any() else count

    def _run(self, reading: Reading, first: int) -> tuple[Tensor, int]:
        """Read rows from `first` on, in pieces between gists that are keys and values."""
        count = len(reading.rows)
        waiting = reading.cached_slots[reading.cached_slots >= first]
        hidden, at, computed = torch.empty(0), first, 0
        for slot, until in _runs(waiting, count):
            if slot > at:
                hidden = self._piece(reading, at, slot)
                computed += slot - at
            if until > slot:
                self._put(reading, slot, until)
            at = until
        return hidden, computed

    def _piece(self, reading: Reading, start: int, stop: int) -> Tensor:
        inside = (reading.gist_slots >= start) & (reading.gist_slots < stop)
        gists = reading.gist_slots[inside] - start, reading.gists[inside]
        return self._forward(reading.ids[start:stop], reading.positions[start:stop], gists)

    def _forward(
        self, ids: np.ndarray, positions: np.ndarray, gists: tuple[np.ndarray, np.ndarray] | None
    ) -> Tensor:
        """Run the model over rows behind those that are held; hidden state of the last (1, E)."""
        base = self._base
        rows = torch.from_numpy(ids.astype(np.int64)).to(base.device)[None]
        embeddings = base.embed(rows if gists is None else rows.clamp_min(0))
        if gists is not None and len(gists[0]):
            at = torch.from_numpy(gists[0]).to(base.device)
            vectors = torch.from_numpy(gists[1]).to(base.device, embeddings.dtype)
            embeddings = embeddings.index_copy(1, at, vectors[None])
        where = torch.from_numpy(positions.astype(np.float64)).to(base.device)[None]
        return base(embeddings, where, ids=rows, cache=self._cache)[0, -1:]

    def _put(self, reading: Reading, start: int, stop: int) -> None:
        base, cache = self._base, self._cache
        if not isinstance(base, HoldsEntries):
            raise ShapeError(
                f"gists that are keys and values need a model that holds entries, got {type(base).__name__}; use "
                "embedding gists"
            )
        inside = (reading.cached_slots >= start) & (reading.cached_slots < stop)
        vectors = torch.from_numpy(reading.cached[inside]).to(base.device)[None]
        where = torch.from_numpy(reading.positions[start:stop]).to(base.device)[None]
        put_entries(base, cache, CacheEntries.unpacked(vectors, base), where)

    def _keep(self, count: int) -> None:
        self._cache.truncate(count)
        self._rows = Rows(self._rows.lod[:count], self._rows.index[:count], self._rows.position[:count])
        self._ids = self._ids[:count]

    @contextmanager
    def _nothing_half_read(self) -> Iterator[None]:
        """An error inside takes away what was written behind the rows that are known."""
        try:
            yield
        except BaseException:
            self._cache.truncate(min(len(self), self._cache.length))
            raise


def _runs(slots: np.ndarray, end: int) -> list[tuple[int, int]]:
    """Stretches [slot, until) of neighbouring slots, and (end, end) behind them."""
    if not len(slots):
        return [(end, end)]
    breaks = np.flatnonzero(np.diff(slots) > 1) + 1
    starts = slots[np.concatenate([[0], breaks])]
    stops = slots[np.concatenate([breaks - 1, [len(slots) - 1]])] + 1
    return [*zip(starts.tolist(), stops.tolist(), strict=True), (end, end)]
