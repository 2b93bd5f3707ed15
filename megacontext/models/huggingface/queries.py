"""The queries that a frozen decoder's layers make while it reads: what its attention is asked for.

Deliberately knows nothing of what they are held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from megacontext.errors import CheckpointError
from megacontext.models.hooks import Hooked
from megacontext.models.huggingface.base import HuggingFaceBase


class QueryWatch(Hooked):
    """Notes, inside a with-block, the queries of the newest forward pass, one row at a time.

    Raises CheckpointError for a decoder whose layers have no query map of their own (`self_attn.q_proj`).
    """

    def __init__(self, base: HuggingFaceBase):
        layers = getattr(base.decoder, "layers", [])
        self._attentions = [getattr(layer, "self_attn", None) for layer in layers]
        if not self._attentions or not all(hasattr(one, "q_proj") for one in self._attentions):
            raise CheckpointError(
                "queries are watched in layers with a map q_proj, as Llama, Qwen and Mistral have, got "
                f"{type(base.model).__name__}; use one of those"
            )
        self._width = base.entry_shape[2]
        self._seen: dict[int, Tensor] = {}

    def _hooks(self) -> Iterator[RemovableHandle]:
        for number, attention in enumerate(self._attentions):

            def note(_: nn.Module, __: Any, found: Tensor, number: int = number) -> None:
                self._seen[number] = found.detach()

            yield attention.q_proj.register_forward_hook(note)

    @torch.no_grad()
    def queries(self, layer: int) -> Tensor:
        """Of one layer, (W, H, D): scaled, unrotated, ready to be held against keys."""
        attention = self._attentions[layer]
        rows = self._seen[layer][0].unflatten(-1, (-1, self._width))
        if (norm := getattr(attention, "q_norm", None)) is not None:
            rows = norm(rows)
        return rows * attention.scaling
