"""Rotary position embedding for entries that may stand anywhere on the timeline.

Su et al. 2021 (RoPE), in the half-split layout of nanochat. Positions are real numbers, one per entry, because an
entry of a working context may stand for a span. Angles are computed in float64: float32 phases are off by 0.012 rad
at position 1e6 and by 1.4 rad at 1e8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.errors import ShapeError


def rotary_tables(positions: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 (B, W, 1, D/2) each, for positions (B, W) in tokens."""
    if head_dim % 2:
        raise ShapeError(
            f"rotary positions need an even head dimension, got {head_dim}; change n_embd or n_head"
        )
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    angles = positions.to(torch.float64)[..., None] * base**-exponents
    return angles.cos().float()[:, :, None, :], angles.sin().float()[:, :, None, :]


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x (B, W, H, D) by the angles of `tables`; the pair of a component lies half a head away."""
    cos, sin = tables
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)
