"""Keys and values of a transformers decoder in room that is reserved once, as `BaseModel.reserve` promises.

transformers' own growing cache copies everything it holds at every step, and its static one attends to the whole
room. This one writes into the room and hands out views of what is filled. Layers with sliding windows keep everything
as well: the decoder's own masks cut their windows, so that a window counts entries, gists among them.

This module imports transformers at once; `HuggingFaceBase.reserve` imports this module late.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from megacontext.errors import ShapeError


class ReservedLayer(CacheLayerMixin):
    """Keys and values (B, Hkv, room, D) of one layer; the decoder's attention is the only writer."""

    is_sliding = False

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve the room, on the device and in the type of the first keys and values."""
        self.keys = key_states.new_empty((*key_states.shape[:2], self.room, key_states.shape[3]))
        self.values = value_states.new_empty((*value_states.shape[:2], self.room, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the entries' keys and values (B, Hkv, W, D) behind the others; all there are, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, past : self.length] = key_states
        self.values[:, :, past : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.room


class ReservedCache(Cache):
    """All layers, and what the next piece needs to know of the pieces before it."""

    def __init__(self, layers: int, batch: int, room: int, device: torch.device):
        super().__init__(layers=[ReservedLayer(room) for _ in range(layers)])
        self.allowed = torch.zeros(batch, room, dtype=torch.bool, device=device)
        """Which entries may be attended to, bool (B, room): False for padding."""
        self.origin: Tensor | None = None
        """Position (B, 1) that counts as zero; set by the first piece."""

    @property
    def length(self) -> int:
        """How many entries it holds."""
        return self.layers[0].length

    @property
    def batch(self) -> int:
        """Rows that it was reserved for."""
        return self.allowed.shape[0]

    @property
    def room(self) -> int:
        """Entries that it was reserved for."""
        return self.allowed.shape[1]

    def has_room(self, batch: int, entries: int) -> bool:
        """Whether `entries` more fit, in a batch of that size."""
        return batch == self.batch and self.length + entries <= self.room

    def truncate(self, length: int) -> None:
        """Forget all entries from `length` on. Raises ShapeError."""
        if not 0 <= length <= self.length:
            raise ShapeError(
                f"a cache of {self.length} entries is cut to no more than it holds, got {length}"
            )
        for layer in self.layers:
            layer.length = length
        if length == 0:
            self.origin = None
