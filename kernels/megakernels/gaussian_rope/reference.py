"""The expectation of a rotation whose angle is uncertain, in PyTorch.

Under a position drawn from N(mean, variance) the expected cosine and sine of w * position are those of w * mean times
exp(-w^2 variance / 2), for every frequency w: what a summary of many tokens says of its place fades where the span is
wide against the wavelength, first in the fast pairs. Variance 0 multiplies by exactly 1 and is plain RoPE, bit for bit.
Angles are computed in float64, because float32 phases are off by 0.012 rad at position 1e6 and by 1.4 rad at 1e8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megakernels.gaussian_rope.frequencies import frequencies


def rotate(x: Tensor, mean: Tensor, variance: Tensor, base: float) -> Tensor:
    """x (B, T, H, D), mean (B or 1, T), variance (B or 1, T) in tokens squared -> (B, T, H, D) in x's type.

    The pair of a component lies half a head away. Differentiable in x and in the variance.
    """
    kind = torch.promote_types(x.dtype, torch.float32)
    cos, sin = tables(mean, variance, x.shape[-1], base, kind)
    first, second = x.to(kind).chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1).to(x.dtype)


def tables(
    mean: Tensor, variance: Tensor, width: int, base: float, kind: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Damped cosines and sines (B or 1, T, 1, D / 2) of type `kind`."""
    frequency = frequencies(width, base, mean.device)
    angle = mean.to(torch.float64)[..., None, None] * frequency
    damping = torch.exp(-0.5 * variance.to(torch.float64)[..., None, None] * frequency**2).to(kind)
    return angle.cos().to(kind) * damping, angle.sin().to(kind) * damping
