"""What every query of one call sees, as rows of the packed keys: made once, read by every backend.

The layers of a model see the same, and so do the steps of a training: the last few are kept, with what backends work
out of them. That is a few numbers a query.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from megakernels.pyramid_attention.rule import Pyramid, Queries, read_by

KEPT = 16
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Sight:
    """Keys of all levels stand packed, tokens first and slots last; a query sees one run of rows in each column."""

    runs: Tensor
    """int64 (B or 1, T, C, 2): first and one past the last row; equal where a query sees none. No row is in two."""
    ordered: Tensor
    """int64 (T, C, 2): the same before anything was taken away for being beyond a row's length. Within a run of
    queries neither number ever falls."""
    levels: tuple[int, ...]
    """How many rows each level has, the slots too."""
    columns: tuple[int, ...]
    """Of which level the runs of each column are."""
    asked: tuple[int, ...]
    """How many queries each run has."""
    worked_out: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, make: Callable[..., R], *sizes: int) -> R:
        """`make(self, *sizes)`, from the second time on as it was."""
        key = make, sizes
        if key not in self.worked_out:
            # A tensor made in inference mode would be barred from training later.
            with torch.inference_mode(False):
                self.worked_out[key] = make(self, *sizes)
        return self.worked_out[key]


def sight(
    rule: Pyramid, num_tokens: int, queries: Sequence[Queries], lengths: Tensor | None, device: torch.device
) -> Sight:
    """For keys of `num_tokens` tokens with all their summaries. `lengths` (B,): tokens of each row that are there."""
    shared = _sight(rule, num_tokens, tuple(queries), device)
    if lengths is None:
        return shared
    read, lengths = read_by(queries, rule, device)[None], lengths.to(device)[:, None]
    runs = shared.runs.expand(len(lengths), -1, -1, -1)
    if rule.overshoot:
        runs = rule.runs(read, lengths) + _first_rows(rule, num_tokens, device)
    runs = runs.masked_fill((read > lengths)[..., None, None], 0)
    return Sight(runs, shared.ordered, shared.levels, shared.columns, shared.asked)


def _first_rows(rule: Pyramid, num_tokens: int, device: torch.device) -> Tensor:
    """The row with which the level of each column begins, int64 (C, 1)."""
    levels = rule.rows(num_tokens)
    return torch.tensor([sum(levels[:level]) for level in rule.columns], device=device)[:, None]


@lru_cache(maxsize=KEPT)
def _sight(rule: Pyramid, num_tokens: int, queries: tuple[Queries, ...], device: torch.device) -> Sight:
    with torch.inference_mode(False):  # as above
        runs = rule.runs(read_by(queries, rule, device), num_tokens)
        ordered = runs + _first_rows(rule, num_tokens, device)
        asked = tuple(run.count for run in queries)
        return Sight(ordered[None], ordered, tuple(rule.rows(num_tokens)), rule.columns, asked)
