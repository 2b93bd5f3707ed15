"""Keys and values of what a decoding has read so far.

Room is reserved once and written in place, so a step copies nothing that it does not add. The model is the only
writer; one cache belongs to one decoding. Deliberately knows nothing of windows or of what an entry was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from megacontext.errors import ShapeError
from megacontext.models.config import GPTConfig
from megacontext.models.windows import Sight, sight


class EntryCache(Protocol):
    """What our GPT reads from and writes to in one forward pass: see `KVCache`."""

    @property
    def batch(self) -> int: ...

    @property
    def room(self) -> int: ...

    length: int

    def has_room(self, batch: int, entries: int) -> bool: ...

    def sight(self, window: int | None, entries: int, padding: Tensor | None) -> Sight: ...

    def last(self) -> tuple[Tensor, Tensor | None] | None: ...

    def remember(self, givers: Tensor, is_token: Tensor | None) -> None: ...

    def extend(self, layer: int, keys: Tensor, values: Tensor, first: int) -> tuple[Tensor, Tensor]: ...

    def count(self, entries: int) -> None: ...


@dataclass
class KVCache:
    """Keys and values (B, room, Hkv, D) of every layer, and what smear needs of the entries."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0
    """How many entries it holds."""
    allowed: Tensor | None = field(default=None)
    """Which entries may be attended to, bool (B, room): False for padding; None while nothing is padding."""
    givers: Tensor | None = field(default=None)
    """The entries as smear passes them on, (B, room, E); None before the first, and in a dialect without smear."""
    is_token: Tensor | None = field(default=None)
    """Which entries are tokens, bool (B, room, 1); None while all are."""

    @staticmethod
    def bytes_per_position(config: GPTConfig) -> int:
        """Bytes that a decode step reads for each entry that it attends to: float32 keys and values of all layers."""
        return 2 * 4 * config.n_layer * config.n_kv_head * config.head_dim

    @classmethod
    def reserve(cls, config: GPTConfig, batch: int, room: int, like: Tensor) -> KVCache:
        """An empty cache with room for `room` entries, on the device and in the type of `like`."""
        shape = (batch, room, config.n_kv_head, config.head_dim)
        return cls(
            keys=[like.new_empty(shape) for _ in range(config.n_layer)],
            values=[like.new_empty(shape) for _ in range(config.n_layer)],
        )

    @property
    def batch(self) -> int:
        """Rows that it was reserved for."""
        return self.keys[0].shape[0]

    @property
    def room(self) -> int:
        """Entries that it was reserved for."""
        return self.keys[0].shape[1]

    def has_room(self, batch: int, entries: int) -> bool:
        """Whether `entries` more fit, in a batch of that size."""
        return batch == self.batch and self.length + entries <= self.room

    def mark(self, entries: int, padding: Tensor | None) -> Tensor | None:
        """Note which of the next `entries` are padding, bool (B, entries), and return `allowed` up to them."""
        if self.allowed is None:
            if padding is None:
                return None
            self.allowed = torch.ones(self.batch, self.room, dtype=torch.bool, device=padding.device)
        stop = self.length + entries
        self.allowed[:, self.length : stop] = True if padding is None else ~padding
        return self.allowed[:, :stop]

    def sight(self, window: int | None, entries: int, padding: Tensor | None) -> Sight:
        """What the next `entries` see, those that it holds and themselves; marks the ones of `padding`, (B, W)."""
        return sight(window, self.length, entries, self.mark(entries, padding), self.keys[0].device)

    def count(self, entries: int) -> None:
        """The model has gone through all layers: so many more entries are held."""
        self.length += entries

    def remember(self, givers: Tensor, is_token: Tensor | None) -> None:
        """Keep of the next entries (B, W, E) what smear passes on; `is_token` bool (B, W, 1), None when all are."""
        stop = self.length + givers.shape[1]
        if self.givers is None:
            self.givers = givers.new_empty(self.batch, self.room, givers.shape[2])
        self.givers.narrow(1, self.length, givers.shape[1]).copy_(givers)
        if is_token is not None and self.is_token is None:
            self.is_token = torch.ones(self.batch, self.room, 1, dtype=torch.bool, device=givers.device)
        if self.is_token is not None:
            self.is_token[:, self.length : stop] = True if is_token is None else is_token

    def last(self) -> tuple[Tensor, Tensor | None] | None:
        """The last entry as smear passes it on, (B, 1, E), and whether it is a token, bool (B, 1, 1), None for yes.

        None while there is no entry.
        """
        if self.givers is None or not self.length:
            return None
        is_token = None if self.is_token is None else self.is_token.narrow(1, self.length - 1, 1)
        return self.givers.narrow(1, self.length - 1, 1), is_token

    def truncate(self, length: int) -> None:
        """Forget all entries from `length` on; the next one follows entry `length - 1`. Raises ShapeError."""
        if not 0 <= length <= self.length:
            raise ShapeError(
                f"a cache of {self.length} entries is cut to no more than it holds, got {length}"
            )
        self.length = length

    def extend(self, layer: int, keys: Tensor, values: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, W, Hkv, D) behind those of `layer`; returns all from entry `first` on.

        `length` counts them only once the model has gone through all layers.
        """
        entries, seen = keys.shape[1], self.length + keys.shape[1] - first
        all_keys, all_values = self.keys[layer], self.values[layer]
        all_keys.narrow(1, self.length, entries).copy_(keys)
        all_values.narrow(1, self.length, entries).copy_(values)
        return all_keys.narrow(1, first, seen), all_values.narrow(1, first, seen)
