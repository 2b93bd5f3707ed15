"""Who sees what in a pyramid of summaries: written once, for every backend.

A sequence of N tokens has a summary of each complete block of K tokens (level 1), of K of those (level 2), and on. A
query that has read n tokens sees the last W of them one by one, what lies before through level 1, what lies before
that through level 2, the oldest through the highest level. The borders a_1 >= a_2 >= ... between the levels are

    a_1 = the greatest multiple of K   up to n - W               tokens   [a_1, n)
    a_2 = the greatest multiple of K^2 up to a_1 - S_1           level 1  [a_2, a_1)
    a_3 = the greatest multiple of K^3 up to a_2 - S_2           level 2  [a_3, a_2)   ...   the highest  [0, a_L)

(0 where that is below 0). So every token up to n is covered exactly once, by itself or by one summary, and no summary
reaches beyond n, because no border does. A token at position t has read t + 1 tokens; a summary stands for its last
child, so that of level l and index i has read (i + 1) K^l.

Within each level what a query sees is one run of neighbours, and that is all a kernel has to know. Three things may be
seen besides, each as a further run, none by default:

    slots      rows that stand for no token; every query sees them all
    edges      summaries of level 1 within [0, a_2), where only higher ones are seen otherwise, drawn at random: edge e
               of E is node e s + floor(u_e s), with s = a_2 / K // E and u_e drawn once. So queries between two
               borders, K^2 of them, share their edges, none is drawn twice, and along a level no edge ever goes back
    overshoot  the summary of the block that a query stands in, which knows up to K - 1 tokens that come after it:
               not causal any more, for looking at what summaries tell, never for a language model's loss
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from megakernels.errors import KernelShapeError


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Sizes of the rule. Levels of summaries are one more than `spans`."""

    window: int = 256
    """W: tokens that are seen one by one, at least (up to K - 1 more, to the border of a block)."""
    block: int = 32
    """K: children of a summary."""
    spans: tuple[int, ...] = (8192,)
    """S_1, S_2, ...: tokens that the levels below the highest stand for, at least."""
    slots: int = 0
    """Rows that stand for no token and that every query sees, learnt vectors say."""
    edges: int = 0
    """Summaries of level 1 that a query sees besides, where it is shown only higher ones."""
    seed: int = 0
    """What the edges are drawn from."""
    overshoot: bool = False
    """Let a query see the summary of its own block, and so what comes after it."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.block < 2 or min((self.slots, self.edges, *self.spans)) < 0:
            raise KernelShapeError(
                "a pyramid needs window >= 1, block >= 2, spans, slots and edges >= 0, got "
                f"{self.window}, {self.block}, {self.spans}, {self.slots} and {self.edges}; the usual ones are "
                "256, 32, (8192,), 0 and 0"
            )
        if self.edges and not self.spans:
            raise KernelShapeError(
                f"edges lead to level 1 where only higher levels are seen, a pyramid with edges = {self.edges} and no "
                "spans has none higher; give spans, or edges = 0"
            )

    @property
    def levels(self) -> int:
        """L: levels of summaries."""
        return len(self.spans) + 1

    def count(self, num_tokens: int) -> list[int]:
        """How many tokens (level 0) and complete summaries of each level `num_tokens` have."""
        return [num_tokens // self.block**level for level in range(self.levels + 1)]

    def rows(self, num_tokens: int) -> list[int]:
        """Rows of packed keys: tokens, summaries of each level, and last the slots."""
        return [*self.count(num_tokens), self.slots]

    @property
    def columns(self) -> tuple[int, ...]:
        """Of which rows each run of a query is, as an index into `rows`: every level, the slots, edges, overshoot."""
        return (*range(self.levels + 2), *(1,) * (self.edges + self.overshoot))

    def borders(self, read: Tensor) -> list[Tensor]:
        """a_0 = n, a_1, ..., a_L and 0, each int64 like `read`, for queries that have read n tokens."""
        found, before = [read], read
        for level, kept in enumerate((self.window, *self.spans), start=1):
            width = self.block**level
            before = (before - kept).clamp_min(0) // width * width
            found.append(before)
        return [*found, torch.zeros_like(read)]

    def runs(self, read: Tensor, known: Tensor | int | None = None) -> Tensor:
        """First and one past the last node that a query sees in each column, int64 (..., C, 2), of `read` (...).

        `known`: tokens that there are, those that were read unless given; only overshoot asks. A query that has read
        nothing sees nothing, no slots either.
        """
        known = read if known is None else torch.as_tensor(known, device=read.device)
        read, known = torch.broadcast_tensors(read, known)
        borders = self.borders(read)
        rows = [
            (borders[level + 1] // self.block**level, borders[level] // self.block**level)
            for level in range(self.levels + 1)
        ]
        rows.append((torch.zeros_like(read), (read > 0) * self.slots))
        rows += self._edges(borders[2] // self.block) if self.edges else []
        if self.overshoot:
            own, whole = read // self.block, known // self.block
            unfinished = (read % self.block > 0).long()
            rows.append((own.minimum(whole), (own + unfinished).minimum(whole)))
        return torch.stack([torch.stack(run, dim=-1) for run in rows], dim=-2)

    def _edges(self, far: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A run of one node for each edge into the first `far` (...) of level 1; empty where those are fewer."""
        draws, step = Random(self.seed), far // self.edges
        nodes = [edge * step + (step * draws.random()).long() for edge in range(self.edges)]
        return [(node, node + (step > 0)) for node in nodes]


@dataclass(frozen=True)
class Queries:
    """A run of neighbouring queries of one level: nodes [start, start + count)."""

    level: int
    start: int
    count: int


def read_by(queries: Sequence[Queries], rule: Pyramid, device: torch.device | None = None) -> Tensor:
    """How many tokens each query has read, int64 (T,), in the order of the runs."""
    parts = []
    for run in queries:
        if not (0 <= run.level <= rule.levels and run.start >= 0 and run.count >= 0):
            raise KernelShapeError(
                f"queries are of levels 0 to {rule.levels} with start and count from 0, got {run}; change it"
            )
        index = torch.arange(run.start, run.start + run.count, dtype=torch.int64, device=device)
        parts.append((index + 1) * rule.block**run.level)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=device)
