"""Rotary position embedding for entries that may stand anywhere on the timeline.

Su et al. 2021 (RoPE), in the half-split layout of nanochat. Positions are real numbers, one per entry, because an
entry of a working context may stand for a span. Angles are computed in float64: float32 phases are off by 0.012 rad
at position 1e6 and by 1.4 rad at 1e8.

A place may be uncertain: under N(mean, variance) the expected rotation is that of the mean, damped pair by pair. The
rotation commutes with a norm over the head and the damping does not, so the two are apart here: a layer rotates, norms,
and damps. Together they are what `megakernels.gaussian_rope` does in one pass.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from megacontext.errors import ShapeError


class Rotation(NamedTuple):
    """Where the entries of one pass stand."""

    cos: Tensor
    """(B or 1, W, 1, D/2), as `sin`."""
    sin: Tensor
    damping: Tensor | None
    """(B or 1, W, 1, D): what is left of each component; None where every place is certain."""


def _frequencies(head_dim: int, base: float, device: torch.device) -> Tensor:
    """Radians per token of each pair, float64 (D/2,)."""
    # A tensor made in inference mode would be barred from training later.
    with torch.inference_mode(False):
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
        return base**-exponents


_kept_frequencies = lru_cache(maxsize=64)(_frequencies)


def rotary_tables(positions: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 (B, W, 1, D/2) each, for positions (B, W) in tokens.

    Rows that share their positions (a batch of 1, or one that was expanded) share the tables: then B is 1.
    """
    if head_dim % 2:
        raise ShapeError(
            f"rotary positions need an even head dimension, got {head_dim}; change n_embd or n_head"
        )
    if positions.stride(0) == 0:
        positions = positions[:1]
    # Tracing goes through a cache as if it were not there, and warns of it.
    frequencies = _frequencies if torch.compiler.is_compiling() else _kept_frequencies
    angles = positions.unsqueeze(-1).unsqueeze(-1) * frequencies(head_dim, base, positions.device)
    return angles.cos().float(), angles.sin().float()


def rotary_damping(variance: Tensor, head_dim: int, base: float) -> Tensor:
    """What is left of each component where places are uncertain, float32 (B, W, 1, D): exp(-w^2 variance / 2).

    `variance` (B, W) in tokens squared; 0 gives exactly 1. Differentiable.
    """
    frequencies = _frequencies(head_dim, base, variance.device)
    pairs = torch.exp(-0.5 * variance[..., None, None] * frequencies**2).float()
    return torch.cat((pairs, pairs), dim=-1)


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x (B, W, H, D) by the angles of `tables`; the pair of a component lies half a head away."""
    if not x.is_cpu or x.dtype != torch.float32 or torch.compiler.is_compiling():
        cos, sin = tables
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1).to(x.dtype)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Turn.apply(x, *tables)
    return _turned(x, *tables, 1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """The same written half by half into one result, which saves a CPU the passes over what lies between."""
    turned = torch.empty_like(x)
    (first, second), (new_first, new_second) = x.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=direction)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin, value=-direction)
    return turned


class _Turn(Function):
    """A rotation, whose derivative is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _turned(grad, *ctx.saved_tensors, -1), None, None
