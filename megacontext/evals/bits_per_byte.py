"""Bits per byte: a language model's loss in a unit that does not depend on its vocabulary.

The nats of all targets that stand for bytes, over ln 2 times the number of those bytes (nanochat's definition). Special
tokens stand for no bytes and count for nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from megacontext.models.base import BaseModel


class BitsPerByte(NamedTuple):
    """A loss in its two units."""

    bits_per_byte: float
    nats_per_token: float


class TextLoss(NamedTuple):
    """Sums, which add up over parts of a text."""

    nats: float
    text_bytes: float
    tokens: float

    def rates(self) -> BitsPerByte:
        """The loss per byte and per token. Of no text, not a number."""
        if not self.text_bytes:
            return BitsPerByte(math.nan, math.nan)
        return BitsPerByte(self.nats / math.log(2) / self.text_bytes, self.nats / self.tokens)


@torch.inference_mode()
def text_loss(base: BaseModel, rows: np.ndarray, byte_lengths: np.ndarray, *, batch: int) -> TextLoss:
    """Loss of rows int64 (N, T + 1) of plain tokens, each read from its beginning, `batch` rows at once.

    `byte_lengths` (V,) says how many bytes each token stands for.
    """
    device = base.device
    lengths = torch.from_numpy(byte_lengths).to(device)
    nats = torch.zeros((), dtype=torch.float64, device=device)
    text_bytes = torch.zeros((), dtype=torch.int64, device=device)
    tokens = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(rows), batch):
        part = torch.from_numpy(rows[start : start + batch]).to(device)
        ids, targets = part[:, :-1], part[:, 1:]
        positions = torch.arange(ids.shape[1], device=device)[None]
        logits = base.unembed(base(base.embed(ids), positions, ids=ids))
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        target_bytes = lengths[targets.flatten()]
        counted = target_bytes > 0
        nats += (losses * counted).sum(dtype=torch.float64)
        text_bytes += target_bytes.sum()
        tokens += counted.sum()
    return TextLoss(nats.item(), float(text_bytes.item()), float(tokens.item()))
