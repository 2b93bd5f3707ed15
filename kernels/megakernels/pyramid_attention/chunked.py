"""The same attention in pieces, with PyTorch alone: for each chunk of queries, what any of them sees.

Queries that stand beside one another see nearly the same runs, so a chunk gathers little more than it needs, and both
time and memory grow with what is seen instead of with the square of the length. Differentiable through autograd; for
CPUs, and wherever Triton is not. (Where a chunk begins and ends is asked of the device: on a GPU that waits for it.)
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from megakernels.pyramid_attention.distance import Distance
from megakernels.pyramid_attention.sight import Sight

CHUNK = 256
"""Queries at once."""


def attend(
    q: Tensor, key: Tensor, value: Tensor, sight: Sight, scale: float, distance: Distance | None = None
) -> tuple[Tensor, Tensor]:
    """As `reference.attend`."""
    outs, sums = [], []
    # A chunk never spans two runs of queries: those see unlike things.
    ends = list(accumulate(sight.asked))
    for begin, end in zip([0, *ends], ends, strict=False):
        for start in range(begin, end, CHUNK):
            asked = slice(start, min(start + CHUNK, end))
            out, lse = _chunk(q[:, asked], key, value, sight.runs[:, asked], scale, distance, asked)
            outs.append(out)
            sums.append(lse)
    if not outs:
        return torch.zeros_like(q), q.new_zeros(
            q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32)
        )
    return torch.cat(outs, dim=1), torch.cat(sums, dim=1)


def _chunk(
    q: Tensor,
    key: Tensor,
    value: Tensor,
    runs: Tensor,
    scale: float,
    distance: Distance | None,
    asked: slice,
) -> tuple[Tensor, Tensor]:
    spans = [_span(runs[:, :, column]) for column in range(runs.shape[2])]
    keys, values = (torch.cat([one[:, first:stop] for first, stop in spans], dim=1) for one in (key, value))
    nodes = [torch.arange(first, stop, device=runs.device) for first, stop in spans]
    masks = [
        (runs[:, :, column, :1] <= node) & (node < runs[:, :, column, 1:])
        for column, node in enumerate(nodes)
    ]
    penalty = None if distance is None else distance.penalty(asked, torch.cat(nodes))
    return _attend(q, keys, values, torch.cat(masks, dim=-1), scale, penalty)


def _span(runs: Tensor) -> tuple[int, int]:
    """First and one past the last row that any of the queries sees; (0, 0) where none sees any."""
    sees = runs[..., 0] < runs[..., 1]
    if not sees.any():
        return 0, 0
    return int(runs[..., 0][sees].min()), int(runs[..., 1][sees].max())


def _attend(
    q: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, penalty: Tensor | None
) -> tuple[Tensor, Tensor]:
    """q (B, T, H, D), key and value (B, n, Hkv, D), mask (B or 1, T, n), penalty (B or 1, H, T, n)."""
    batch, asked, heads, width = q.shape
    shared = key.shape[2]
    kind = torch.promote_types(q.dtype, torch.float32)
    if not key.shape[1]:
        return torch.zeros_like(q), q.new_full(q.shape[:3], float("-inf"), dtype=kind)
    # (B, Hkv, group, T, D): the heads of a group read the same keys, in one product.
    grouped = (scale * q.to(kind)).unflatten(2, (shared, -1)).permute(0, 2, 3, 1, 4)
    scores = grouped.flatten(2, 3) @ key.to(kind).permute(0, 2, 3, 1)
    scores = scores.unflatten(2, (-1, asked))
    if penalty is not None:
        scores = scores - penalty.unflatten(1, (shared, -1))
    scores = scores.masked_fill_(~mask[:, None, None], float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    # The log of the sum, by way of the largest weight: one pass where the usual one takes four.
    lse = scores.amax(dim=-1) - weights.amax(dim=-1).log()
    # A softmax over nothing is no number.
    blind = ~mask.any(dim=-1)[:, None, None]
    if blind.any():
        weights, lse = weights.masked_fill(blind[..., None], 0), lse.masked_fill(blind, float("-inf"))
    out = weights.flatten(2, 3) @ value.to(kind).transpose(1, 2)
    out = out.unflatten(2, (-1, asked)).permute(0, 3, 1, 2, 4).reshape(batch, asked, heads, width)
    return out.to(q.dtype), lse.permute(0, 3, 1, 2).reshape(batch, asked, heads)
