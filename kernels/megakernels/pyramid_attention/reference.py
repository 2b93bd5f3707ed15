"""Attention over runs of rows, dense: the mathematics to check by eye, in any precision up to float64."""

from __future__ import annotations

import torch
from torch import Tensor

from megakernels.pyramid_attention.distance import Distance
from megakernels.pyramid_attention.sight import Sight


def attend(
    q: Tensor, key: Tensor, value: Tensor, sight: Sight, scale: float, distance: Distance | None = None
) -> tuple[Tensor, Tensor]:
    """q (B, T, H, D), key and value (B, M, Hkv, D) -> out (B, T, H, D), log of the softmax's sum (B, T, H).

    A query that sees nothing gets zeros, and -inf. What comes in half precision is worked on in float32.
    """
    kind = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[2] // key.shape[2]
    keys, values = (one.to(kind).repeat_interleave(group, dim=2) for one in (key, value))
    scores = scale * torch.einsum("bthd,bmhd->bthm", q.to(kind), keys)
    if distance is not None:
        scores = scores - distance.penalty(slice(None), slice(None)).transpose(1, 2)
    scores = scores.masked_fill(~seen(sight.runs, key.shape[1])[:, :, None, :], float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.masked_fill(lse == float("-inf"), 0)[..., None])
    return torch.einsum("bthm,bmhd->bthd", weights, values).to(q.dtype), lse


def seen(runs: Tensor, rows: int) -> Tensor:
    """Which rows each query sees, bool (B or 1, T, rows)."""
    row = torch.arange(rows, device=runs.device)
    return ((runs[..., 0, None] <= row) & (row < runs[..., 1, None])).any(dim=-2)
