"""The same attention by PyTorch's flex_attention, compiled: the yardstick of our own kernel, and a second way to run.

Its mask is told to it as a function of row numbers; blocks of keys that no query of a block sees are left out by a
block mask, which is made once for each sight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from megakernels.pyramid_attention.distance import Distance
from megakernels.pyramid_attention.sight import Sight


def attend(
    q: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Sight,
    scale: float,
    distance: Distance | None = None,
    *,
    compiled: bool = True,
) -> tuple[Tensor, Tensor]:
    """As `reference.attend`. Without `compiled` it is dense, and runs anywhere."""
    mask = sight.once(_mask, q.shape[1], key.shape[1])
    attend_with = _compiled() if compiled else flex_attention
    out, more = attend_with(
        *(one.transpose(1, 2) for one in (q, key, value)),
        score_mod=None if distance is None else _nearer(distance),
        block_mask=mask,
        scale=scale,
        return_aux=AuxRequest(lse=True),
        enable_gqa=q.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2), more.lse.transpose(1, 2)


def _mask(sight: Sight, asked: int, rows: int) -> BlockMask:
    runs = sight.runs.to(torch.int32)
    per_row = runs.shape[0] > 1
    columns = [column for column, level in enumerate(sight.columns) if sight.levels[level]]

    def sees(row: Tensor, head: Tensor, query: Tensor, node: Tensor) -> Tensor:
        of_row = row if per_row else 0
        seen = node < 0
        for column in columns:
            seen = seen | ((runs[of_row, query, column, 0] <= node) & (node < runs[of_row, query, column, 1]))
        return seen

    return create_block_mask(sees, len(runs) if per_row else None, None, asked, rows, device=str(runs.device))


def _nearer(distance: Distance) -> Callable[..., Tensor]:
    """Takes off each score what its distance costs."""
    slopes, places, nodes = distance.slopes, distance.queries, distance.keys

    def modified(score: Tensor, row: Tensor, head: Tensor, query: Tensor, node: Tensor) -> Tensor:
        place = places[row if len(places) > 1 else 0, query]
        far = (place - nodes[row if len(nodes) > 1 else 0, node]).clamp_min(0)
        return score - slopes[head] * (far.log1p() if distance.logarithmic else far)

    return modified


@lru_cache(maxsize=1)
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)
