"""The same attention in pieces, with PyTorch alone: for each chunk of queries, what any of them sees.

Queries that stand beside one another see nearly the same runs, so a chunk gathers little more than it needs, and both
time and memory grow with what is seen instead of with the square of the length. Differentiable through autograd; for
CPUs, and wherever Triton is not. (Where a chunk begins and ends is asked of the device: on a GPU that waits for it.)
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from megakernels.pyramid_attention.reference import seen
from megakernels.pyramid_attention.sight import Sight

CHUNK = 256
"""Queries at once."""


def attend(q: Tensor, key: Tensor, value: Tensor, sight: Sight, scale: float) -> tuple[Tensor, Tensor]:
    """As `reference.attend`."""
    outs, sums = [], []
    # A chunk never spans two runs of queries: those see unlike things.
    ends = list(accumulate(sight.asked))
    for begin, end in zip([0, *ends], ends, strict=False):
        for start in range(begin, end, CHUNK):
            asked = slice(start, min(start + CHUNK, end))
            out, lse = _chunk(q[:, asked], key, value, sight.runs[:, asked], scale)
            outs.append(out)
            sums.append(lse)
    if not outs:
        return torch.zeros_like(q), q.new_zeros(
            q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32)
        )
    return torch.cat(outs, dim=1), torch.cat(sums, dim=1)


def _chunk(q: Tensor, key: Tensor, value: Tensor, runs: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    spans = [_span(runs[:, :, level]) for level in range(runs.shape[2])]
    keys, values = (torch.cat([one[:, first:stop] for first, stop in spans], dim=1) for one in (key, value))
    # Rows are numbered anew, as they stand beside one another now.
    behind = list(accumulate((stop - first for first, stop in spans), initial=0))
    moved = torch.tensor(
        [at - first for at, (first, _) in zip(behind, spans, strict=False)], device=runs.device
    )
    sees = runs[..., :1] < runs[..., 1:]
    return _attend(q, keys, values, seen((runs + moved[:, None]) * sees, keys.shape[1]), scale)


def _span(runs: Tensor) -> tuple[int, int]:
    """First and one past the last row that any of the queries sees; (0, 0) where none sees any."""
    sees = runs[..., 0] < runs[..., 1]
    if not sees.any():
        return 0, 0
    return int(runs[..., 0][sees].min()), int(runs[..., 1][sees].max())


def _attend(q: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """q (B, T, H, D), key and value (B, n, Hkv, D), mask (B or 1, T, n)."""
    batch, asked, heads, width = q.shape
    shared = key.shape[2]
    kind = torch.promote_types(q.dtype, torch.float32)
    # (B, Hkv, T * group, D): the heads of a group read the same keys, in one product.
    grouped = q.to(kind).reshape(batch, asked, shared, heads // shared, width).permute(0, 2, 1, 3, 4)
    scores = scale * (grouped.reshape(batch, shared, -1, width) @ key.to(kind).permute(0, 2, 3, 1))
    rows = mask[:, None, :, None, :].expand(-1, -1, -1, heads // shared, -1).flatten(2, 3)
    scores = scores.masked_fill(~rows, float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.masked_fill(lse == float("-inf"), 0)[..., None])
    out = weights @ value.to(kind).transpose(1, 2)
    shape = (batch, shared, asked, heads // shared)
    out = out.view(*shape, width).permute(0, 2, 1, 3, 4).reshape(batch, asked, heads, width)
    return out.to(q.dtype), lse.view(shape).permute(0, 2, 1, 3).reshape(batch, asked, heads)
