"""What a base model offers to those who read with it: embeddings and positions in, hidden states and logits out.

Our GPT has it by itself, a frozen decoder of somebody else through an adapter. Deliberately says nothing of where an
embedding comes from: it may be a token's, or a gist's.

Axes: B batch, W entries of a context, E model width, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

NO_TOKEN = -1
"""Id of an entry that is no token: a gist, or padding."""


class Cache(Protocol):
    """Keys and values of the entries that one decoding has read so far. Made by `BaseModel.reserve`."""

    length: int
    """How many entries it holds."""

    def truncate(self, length: int) -> None:
        """Forget all entries from `length` on. Raises ShapeError for more than it holds."""
        ...


class BaseModel(Protocol):
    """A decoder that reads a mixed context."""

    @property
    def width(self) -> int:
        """E, numbers in an input embedding."""
        ...

    @property
    def vocab_size(self) -> int:
        """V, how many logits `unembed` gives."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are, and where all that it reads must be."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (..., E) of token ids (...)."""
        ...

    def reserve(self, batch: int, room: int) -> Cache:
        """An empty cache with room for `room` entries in each of `batch` rows."""
        ...

    def __call__(
        self,
        embeddings: Tensor,
        positions: Tensor,
        *,
        ids: Tensor | None = None,
        padding: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states (B, W, E), ready for `unembed`.

        `embeddings` (B, W, E) in time order; `positions` (B, W) or (1, W), in tokens. `ids` (B, W) holds the token id
        of each entry, NO_TOKEN for a gist; None says that all are gists. `padding` bool (B, W) is True where an entry
        is only filling. With a cache, the entries follow those that it holds. Raises ShapeError.
        """
        ...

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits, float32 (..., V), of hidden states (..., E)."""
        ...
