"""The same turn in one pass on a GPU: neither tables nor anything else between is written.

The backward pass turns back, for the turn is linear in x, and sums what each entry's variance would change; both from
x as it came in.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from megakernels.gaussian_rope.frequencies import frequencies

_HEADS = 8
"""Heads of an entry that one program turns at a time."""


def rotate(x: Tensor, mean: Tensor, variance: Tensor, base: float) -> Tensor:
    """As `reference.rotate`."""
    if not x.numel():
        return torch.zeros_like(x)
    return _Turn.apply(x, mean.to(torch.float64), variance.to(torch.float64), base)


class _Turn(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, base: float) -> Tensor:
        x = x if x.stride(-1) == 1 else x.contiguous()
        ctx.save_for_backward(x, mean, variance)
        ctx.base = base
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _run(_turn, x, mean, variance, base, (out,), DIRECTION=1)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        x, mean, variance = ctx.saved_tensors
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        back = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _run(_turn, grad, mean, variance, ctx.base, (back,), DIRECTION=-1)
        d_variance = None
        if ctx.needs_input_grad[2]:
            entries = torch.empty(x.shape[:2], dtype=torch.float64, device=x.device)
            _run(_vary, x, mean, variance, ctx.base, (grad, *grad.stride()[:3], entries))
            d_variance = entries if len(variance) == len(x) else entries.sum(dim=0, keepdim=True)
        return back, None, d_variance, None


def _run(
    kernel: Any, x: Tensor, mean: Tensor, variance: Tensor, base: float, more: tuple[Any, ...], **kind: int
) -> None:
    batch, entries, heads, width = x.shape
    kernel[(entries, batch)](
        x, *x.stride()[:3], mean.contiguous(), 0 if len(mean) == 1 else entries, variance.contiguous(),
        0 if len(variance) == 1 else entries, *more, entries, heads, frequencies(width, base, x.device),
        HALF=width // 2, BLOCK=triton.next_power_of_2(width // 2), HEADS=_HEADS, **kind,
    )  # fmt: skip


@triton.jit
def _angles(
    mean_at, mean_b, variance_at, variance_b, entry, row, frequency_at, HALF: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Cosine, sine, damping and squared frequency of every pair of one entry, (BLOCK,)."""
    pair = tl.arange(0, BLOCK)
    # In float64, as a table: a number that is passed by itself arrives as float32.
    frequency = tl.load(frequency_at + pair, mask=pair < HALF, other=0.0)
    mean = tl.load(mean_at + row * mean_b + entry)
    variance = tl.load(variance_at + row * variance_b + entry)
    # Whole turns are taken off in float64; what is left fits float32.
    turns = mean * frequency * 0.15915494309189535
    angle = ((turns - tl.floor(turns)) * 6.283185307179586).to(tl.float32)
    damping = tl.exp((-0.5 * variance * frequency * frequency).to(tl.float32))
    return tl.cos(angle), tl.sin(angle), damping, (frequency * frequency).to(tl.float32)


@triton.jit
def _turn(
    x_at, x_b, x_t, x_h, mean_at, mean_b, variance_at, variance_b, out_at, entries, heads, frequency_at,
    HALF: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, DIRECTION: tl.constexpr,
):  # fmt: skip
    entry, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    cos, sin, damping, _ = _angles(
        mean_at, mean_b, variance_at, variance_b, entry, row, frequency_at, HALF, BLOCK
    )
    cos, sin = cos * damping, sin * damping * DIRECTION
    pair = tl.arange(0, BLOCK)
    for start in range(0, heads, HEADS):
        head = start + tl.arange(0, HEADS)
        mask = (head < heads)[:, None] & (pair < HALF)[None, :]
        at = x_at + row * x_b + entry.to(tl.int64) * x_t + head[:, None] * x_h + pair[None, :]
        first, second = tl.load(at, mask=mask, other=0.0), tl.load(at + HALF, mask=mask, other=0.0)
        first, second = first.to(tl.float32), second.to(tl.float32)
        to = out_at + (((row * entries + entry) * heads + head)[:, None] * 2 * HALF + pair[None, :])
        kind = out_at.dtype.element_ty
        tl.store(to, (first * cos[None, :] + second * sin[None, :]).to(kind), mask=mask)
        tl.store(to + HALF, (second * cos[None, :] - first * sin[None, :]).to(kind), mask=mask)


@triton.jit
def _vary(
    x_at, x_b, x_t, x_h, mean_at, mean_b, variance_at, variance_b, grad_at, g_b, g_t, g_h, d_variance_at, entries,
    heads, frequency_at, HALF: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    entry, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    cos, sin, damping, squared = _angles(
        mean_at, mean_b, variance_at, variance_b, entry, row, frequency_at, HALF, BLOCK
    )
    pair = tl.arange(0, BLOCK)
    changed = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, heads, HEADS):
        head = start + tl.arange(0, HEADS)
        mask = (head < heads)[:, None] & (pair < HALF)[None, :]
        at = x_at + row * x_b + entry.to(tl.int64) * x_t + head[:, None] * x_h + pair[None, :]
        by = grad_at + row * g_b + entry.to(tl.int64) * g_t + head[:, None] * g_h + pair[None, :]
        first, second = tl.load(at, mask=mask, other=0.0), tl.load(at + HALF, mask=mask, other=0.0)
        d_first, d_second = tl.load(by, mask=mask, other=0.0), tl.load(by + HALF, mask=mask, other=0.0)
        first, second = first.to(tl.float32), second.to(tl.float32)
        d_first, d_second = d_first.to(tl.float32), d_second.to(tl.float32)
        turned = d_first * (first * cos[None, :] + second * sin[None, :])
        turned += d_second * (second * cos[None, :] - first * sin[None, :])
        changed += tl.sum(turned, axis=0)
    # The damping of a pair falls by half its squared frequency with each unit of variance.
    total = tl.sum(-0.5 * squared * damping * changed)
    tl.store(d_variance_at + row * entries + entry, total.to(tl.float64))
