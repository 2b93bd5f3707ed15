"""The three elementwise steps of the base model, with derivatives that keep and read as little memory as they can.

On a CPU, PyTorch composes them of many passes over memory, in training and in decoding; together they cost a small
model as much as its attention. Here each is written with its own derivative, in terms of its result:

    rms_norm      y = x r,  r = 1 / sqrt(mean(x^2) + eps)       dx = r (dy - y mean(dy y))
    squared_relu  y = max(x, 0)^2                               dx = 2 max(x, 0) dy
    cap           y = c tanh(x / c)                             dx = (1 - (y / c)^2) dy

On a GPU, in other types than float32 and float64, and under torch.compile (which fuses the plain formulae better than
this does), the plain formulae stand. Deliberately knows nothing of what it is applied to.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_EPS = {dtype: torch.tensor(torch.finfo(dtype).eps, dtype=dtype) for dtype in (torch.float32, torch.float64)}
"""nanochat's: the default of F.rms_norm. Tensors, because a number would become one at every call."""


def rms_norm(x: Tensor) -> Tensor:
    """RMSNorm without a weight, over the last axis."""
    if not _by_hand(x):
        return F.rms_norm(x, (x.shape[-1],))
    if torch.is_grad_enabled() and x.requires_grad:
        return _RMSNorm.apply(x)
    return x * _inverse_rms(x)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2. Overwrites `x`, which must be nobody else's and not needed for its own derivative."""
    if not _by_hand(x):
        return F.relu(x).square()
    if torch.is_grad_enabled() and x.requires_grad:
        return _SquaredReLU.apply(x)
    return x.relu_().square_()


def cap(x: Tensor, limit: float) -> Tensor:
    """limit * tanh(x / limit). Overwrites `x`, which must be nobody else's and not needed for its own derivative."""
    if not _by_hand(x):
        return limit * torch.tanh(x / limit)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Cap.apply(x, limit)
    return x.div_(limit).tanh_().mul_(limit)


def _by_hand(x: Tensor) -> bool:
    return x.is_cpu and x.dtype in _EPS and not torch.compiler.is_compiling()


def _inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last axis, (..., 1)."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(_EPS[x.dtype], size, size, value=1 / x.shape[-1]).rsqrt_()


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = _inverse_rms(x)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        shared = (dy * y).sum(dim=-1, keepdim=True)
        return torch.addcmul(dy, y, shared, value=-1 / y.shape[-1]).mul_(inverse)


class _SquaredReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # Not marked as dirty, because it is no result. Autograd counts the change all the same, and complains if
        # somebody had kept `x`.
        positive = x.relu_()
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (dy * positive).mul_(2)


class _Cap(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        y = x.div_(limit).tanh_().mul_(limit)
        ctx.mark_dirty(x)
        ctx.limit = limit
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        share = y / ctx.limit
        return torch.ops.aten.tanh_backward.grad_input(dy, share, grad_input=share), None
