"""Caches of several decodings in the rows of one room, so that all of them may go on by one entry in one step.

Each row is a cache of its own, longer or shorter than its neighbours, and is read into by itself. For a step of all
rows nothing is moved: every row writes its entry behind its own last one, and a mask hides what lies behind the
shorter ones. A row that sits a step out writes where its next entry will be written over.

Deliberately knows nothing of contexts, or of what the rows hold.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from megacontext.errors import ShapeError
from megacontext.models.cache import KVCache
from megacontext.models.gpt import GPT
from megacontext.models.windows import Sight, sight_of_rows


class CacheRows:
    """One room of B rows; `rows` are caches of one decoding each, with room for `room` entries and one to spare."""

    def __init__(self, base: GPT, batch: int, room: int):
        # What sits a step out writes into the entry to spare where it is full.
        self._whole = whole = base.reserve(batch, room + 1)
        # What a mask hides is multiplied by nought, which must find a number there.
        for layer in (*whole.keys, *whole.values):
            layer.zero_()
        like = base.lm_head.weight
        if base.dialect.smear:
            whole.givers = like.new_zeros(batch, room + 1, base.width)
            whole.is_token = torch.ones(batch, room + 1, 1, dtype=torch.bool, device=like.device)
        self.rows = [
            KVCache(
                keys=[layer[row : row + 1] for layer in whole.keys],
                values=[layer[row : row + 1] for layer in whole.values],
                givers=None if whole.givers is None else whole.givers[row : row + 1],
                is_token=None if whole.is_token is None else whole.is_token[row : row + 1],
            )
            for row in range(batch)
        ]

    def next_entry(self, going: Collection[int]) -> NextEntry:
        """What the model takes as the cache of a step of all rows, one entry each; only those `going` are kept.

        Raises ShapeError if one of them is full.
        """
        full = [row for row in going if self.rows[row].length + 1 >= self._whole.room]
        if full:
            raise ShapeError(f"rows {full} of a cache are full; read less into them, or reserve a larger one")
        return NextEntry(self._whole, self.rows, going)


class NextEntry:
    """The place behind the last entry of each row, as the cache of one forward pass over one entry a row."""

    def __init__(self, whole: KVCache, rows: list[KVCache], going: Collection[int]):
        self._whole, self._rows, self._going = whole, rows, going
        self._lengths = [row.length for row in rows]
        device = whole.keys[0].device
        self._at = torch.tensor(self._lengths, device=device)
        self._all = torch.arange(len(rows), device=device)

    @property
    def batch(self) -> int:
        """Rows of the room."""
        return len(self._rows)

    @property
    def room(self) -> int:
        """Entries that a row was reserved for."""
        return self._whole.room

    @property
    def length(self) -> int:
        """Entries that the longest row holds."""
        return max(self._lengths)

    def has_room(self, batch: int, entries: int) -> bool:
        """Whether these are one entry for each row."""
        return batch == self.batch and entries == 1

    def sight(self, window: int | None, entries: int, padding: Tensor | None) -> Sight:
        """What each row's entry sees: the row's own entries, `window` of them, and itself."""
        assert padding is None
        return sight_of_rows(window, self._lengths, self._at)

    def last(self) -> tuple[Tensor, Tensor | None] | None:
        """The last entries as smear passes them on, (B, 1, E), and which are tokens, bool (B, 1, 1)."""
        whole, before = self._whole, (self._at - 1).clamp_min(0)
        if whole.givers is None or whole.is_token is None:
            return None
        is_token = whole.is_token[self._all, before] & (self._at > 0)[:, None]
        return whole.givers[self._all, before][:, None], is_token[:, None]

    def remember(self, givers: Tensor, is_token: Tensor | None) -> None:
        """Keep of the entries (B, 1, E) what smear passes on; `is_token` bool (B, 1, 1), None when all are."""
        whole = self._whole
        if whole.givers is not None and whole.is_token is not None:
            whole.givers[self._all, self._at] = givers[:, 0]
            whole.is_token[self._all, self._at] = True if is_token is None else is_token[:, 0]

    def extend(self, layer: int, keys: Tensor, values: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, 1, Hkv, D) behind each row's own; returns all from entry `first` on."""
        all_keys, all_values, stop = self._whole.keys[layer], self._whole.values[layer], self.length + 1
        all_keys[self._all, self._at] = keys[:, 0]
        all_values[self._all, self._at] = values[:, 0]
        return all_keys[:, first:stop], all_values[:, first:stop]

    def count(self, entries: int) -> None:
        """The model has gone through all layers: rows that are going hold their entry."""
        for row in self._going:
            self._rows[row].length += entries
