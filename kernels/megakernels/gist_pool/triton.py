"""The same sums on a GPU: each member is read once, weights are never written."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_WIDTH = 128
"""Numbers of a member that one program holds at a time."""


def pool(x: Tensor, logits: Tensor | None) -> Tensor:
    """As `reference.pool`."""
    if not x.numel():
        return x.new_zeros((x.shape[0], *x.shape[2:]))
    # Equal logits are equal weights: a mean.
    given = torch.zeros(x.shape[:3], dtype=torch.float32, device=x.device) if logits is None else logits
    return _Pool.apply(x, given)


class _Pool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor) -> Tensor:
        x, logits = (one if one.stride(-1) == 1 else one.contiguous() for one in (x, logits))
        out = torch.empty((x.shape[0], *x.shape[2:]), dtype=x.dtype, device=x.device)
        _run(_forward, x, logits, out)
        ctx.save_for_backward(x, logits)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, logits = ctx.saved_tensors
        d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        d_logits = torch.empty(logits.shape, dtype=logits.dtype, device=x.device)
        _run(_backward, x, logits, grad.contiguous(), d_x, d_logits)
        return d_x, d_logits


def _run(kernel: Any, x: Tensor, logits: Tensor, *more: Tensor) -> None:
    blocks, members, heads, width = x.shape
    kernel[(blocks, heads)](
        x, *x.stride()[:3], logits, *logits.stride(), *more, members, heads, width,
        BLOCK_K=max(2, triton.next_power_of_2(members)), BLOCK_D=min(_WIDTH, triton.next_power_of_2(width)),
    )  # fmt: skip


@triton.jit
def _softmax(logits_at, l_n, l_k, l_h, members, block, head, BLOCK_K: tl.constexpr):
    member = tl.arange(0, BLOCK_K)
    row = tl.load(
        logits_at + block * l_n + member * l_k + head * l_h, mask=member < members, other=float("-inf")
    ).to(tl.float32)
    powers = tl.exp(row - tl.max(row))
    return powers / tl.sum(powers)


@triton.jit
def _forward(
    x_at, x_n, x_k, x_h, logits_at, l_n, l_k, l_h, out_at, members, heads, width,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    member = tl.arange(0, BLOCK_K)
    weights = _softmax(logits_at, l_n, l_k, l_h, members, block, head, BLOCK_K)
    for start in range(0, width, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        at = x_at + block * x_n + member[:, None] * x_k + head * x_h + column[None, :]
        x = tl.load(at, mask=(member < members)[:, None] & (column < width)[None, :], other=0.0).to(
            tl.float32
        )
        pooled = tl.sum(weights[:, None] * x, axis=0)
        to = out_at + (block * heads + head) * width + column
        tl.store(to, pooled.to(out_at.dtype.element_ty), mask=column < width)


@triton.jit
def _backward(
    x_at, x_n, x_k, x_h, logits_at, l_n, l_k, l_h, grad_at, d_x_at, d_logits_at, members, heads, width,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    member = tl.arange(0, BLOCK_K)
    there = member < members
    weights = _softmax(logits_at, l_n, l_k, l_h, members, block, head, BLOCK_K)
    gain = tl.zeros((BLOCK_K,), tl.float32)
    for start in range(0, width, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        inside = there[:, None] & (column < width)[None, :]
        at = x_at + block * x_n + member[:, None] * x_k + head * x_h + column[None, :]
        x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_at + (block * heads + head) * width + column, mask=column < width, other=0.0)
        grad = grad.to(tl.float32)
        gain += tl.sum(x * grad[None, :], axis=1)
        to = d_x_at + ((block * members + member[:, None]) * heads + head) * width + column[None, :]
        tl.store(to, (weights[:, None] * grad[None, :]).to(d_x_at.dtype.element_ty), mask=inside)
    changed = weights * (gain - tl.sum(weights * gain))
    to = d_logits_at + (block * members + member) * heads + head
    tl.store(to, changed.to(d_logits_at.dtype.element_ty), mask=there)
