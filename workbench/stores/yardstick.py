"""How far a recorded context is from the best one: the exact context, the regret, and the blocks in which they differ.

Two yardsticks, each for what is known:

- Numbers for all blocks of the history (a block scorer's, or cosines of addresses): `against_exact` finds the context
  of highest sum of raw blocks within the room by dynamic programming (`megacontext.focus.exact`), a gist being worth
  nothing. That is the goal of the allocator's strategy `exact`.
- Scores of the context's entries alone: `best_edits` says which gists one step would open if its scores were all that
  counted: the highest that there is room for, with every group that may make room folded for them, and neither
  cooldown nor the limit of edits nor the charge for the way down. Nothing is known of what lies below a gist, so this
  is what the step could have opened and not where the best context is.

Deliberately ignorant of who gave the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.focus import Groups, NodeUtilities, WorkingContext, best_context, value_of


@dataclass(frozen=True)
class AgainstExact:
    """A context beside the best one for the same numbers and room."""

    lod: list[int]
    """Of the best context's entries, in time order."""
    index: list[int]
    cost_positions: int
    value: float
    """Sum of the numbers of the recorded context's raw blocks."""
    best: float
    """That of the best one; the difference is the regret, from 0 up."""
    missed: list[tuple[int, float]]
    """Blocks that only the best one shows as tokens, with their numbers, highest first."""
    spent: list[tuple[int, float]]
    """Blocks that only the recorded one shows as tokens, lowest first."""

    @property
    def regret(self) -> float:
        return self.best - self.value


def against_exact(context: WorkingContext, worth: np.ndarray, room: int) -> AgainstExact:
    """Hold a context against the best for `worth` (num_blocks,) of blocks shown as tokens, within `room` positions.

    The best one protects no last tokens, so that nothing is better: what protecting them costs is part of the regret.
    Raises ShapeError for another number of blocks, BudgetError where nothing fits.
    """
    utilities = NodeUtilities(
        num_tokens=context.num_tokens, block_size=context.block_size, raw=np.asarray(worth, dtype=np.float64)
    )
    best = best_context(utilities, room)
    here, there = _raw_blocks(context), _raw_blocks(best)
    return AgainstExact(
        lod=best.lod.tolist(),
        index=best.index.tolist(),
        cost_positions=best.cost,
        value=value_of(context, utilities),
        best=value_of(best, utilities),
        missed=sorted(_with_worth(there - here, utilities.raw), key=lambda one: -one[1]),
        spent=sorted(_with_worth(here - there, utilities.raw), key=lambda one: one[1]),
    )


@dataclass(frozen=True)
class BestEdits:
    """The gists that one step could have opened by its scores alone, beside those that it did."""

    expand: list[int]
    """Slots, highest score first."""
    folded: int
    """Groups that have to make room for them."""
    value: float
    """Sum of the scores of the gists that were opened."""
    best: float
    """The same of `expand`; the difference is the regret, from 0 up."""

    @property
    def regret(self) -> float:
        return self.best - self.value


def best_edits(
    context: WorkingContext,
    scores: np.ndarray,
    room: int,
    threshold: float,
    opened: list[int],
    protect_recent_tokens: int = 0,
) -> BestEdits:
    """What one step could have opened by `scores` (W,) alone within `room` positions; it opened the slots `opened`.

    Only gists above `threshold` are opened, and only groups fold whose mean lies below -threshold, that hold none of
    the former and do not touch the protected last tokens: what the allocator holds to as well.
    """
    groups, size = Groups(context), context.block_size
    wanted = np.flatnonzero((context.lod > 0) & (scores > threshold))
    wanted = wanted[np.argsort(-scores[wanted], kind="stable")]
    low = (groups.mean(scores) < -threshold) & (groups.highest(scores) <= threshold)
    low &= groups.stop <= context.num_tokens - protect_recent_tokens
    free = max(0, (room - context.cost) // (size - 1))
    count = min(len(wanted), free + int(low.sum()))
    return BestEdits(
        wanted[:count].tolist(),
        max(0, count - free),
        value=float(scores[opened].sum()),
        best=float(scores[wanted[:count]].sum()),
    )


def _raw_blocks(context: WorkingContext) -> set[int]:
    """Finished blocks that stand as tokens."""
    return set(context.index[(context.lod == 0) & (context.costs == context.block_size)].tolist())


def _with_worth(blocks: set[int], worth: np.ndarray) -> list[tuple[int, float]]:
    return [(block, float(worth[block])) for block in sorted(blocks)]
