"""What every query of one call sees, as rows of the packed keys: made once, read by every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megakernels.pyramid_attention.rule import Pyramid, Queries, read_by


@dataclass(frozen=True)
class Sight:
    """Keys of all levels stand packed, tokens first and slots last; a query sees one run of rows of each level."""

    runs: Tensor
    """int64 (B or 1, T, L + 2, 2): first and one past the last row; equal where a query sees none."""
    ordered: Tensor
    """int64 (T, L + 2, 2): the same before anything was taken away for being beyond a row's length. Within a run of
    queries neither column ever falls."""
    levels: tuple[int, ...]
    """How many rows each level has, the slots too."""
    asked: tuple[int, ...]
    """How many queries each run has."""


def sight(
    rule: Pyramid, num_tokens: int, queries: Sequence[Queries], lengths: Tensor | None, device: torch.device
) -> Sight:
    """For keys of `num_tokens` tokens with all their summaries. `lengths` (B,): tokens of each row that are there."""
    levels = rule.rows(num_tokens)
    read = read_by(queries, rule, device)
    first_row = torch.tensor([sum(levels[:level]) for level in range(len(levels))], device=device)
    ordered = rule.runs(read) + first_row[:, None]
    runs = ordered[None]
    if lengths is not None:
        beyond = read[None] > lengths.to(device)[:, None]
        runs = runs.expand(len(lengths), -1, -1, -1).masked_fill(beyond[..., None, None], 0)
    return Sight(runs, ordered, tuple(levels), tuple(run.count for run in queries))
