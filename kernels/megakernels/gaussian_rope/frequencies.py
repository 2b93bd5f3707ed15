"""How fast each pair turns: what every backend of the turn begins with."""

from __future__ import annotations

import torch
from torch import Tensor


def frequencies(width: int, base: float, device: torch.device) -> Tensor:
    """Radians per token of each pair, float64 (D / 2,)."""
    return base ** -(torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
