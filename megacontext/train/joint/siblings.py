"""Step *siblings*: what LensNet and the deployed allocator make of a context.

The first sibling is the one that would be deployed: LensNet's scores, the allocator as configured, until nothing is
left to do. The others come from the same scores with noise, the same at every step of one refocus: a lens that is sure
of itself would otherwise never see what it does not choose. What comes out is legal and within the budget because the
allocator is the one that decodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.focus.allocator import AllocatorConfig, AllocatorState, FocusStep, ScoreFunction, refocus
from megacontext.focus.context import WorkingContext
from megacontext.spans import complete_counts

_TRIES_PER_SIBLING = 3


@dataclass(frozen=True, eq=False)
class Sibling:
    """A context that a refocus of another one ends with."""

    context: WorkingContext
    steps: tuple[FocusStep, ...]
    """The way there: contexts, their scores, and the edits that were made of them."""


def blurred(
    score: ScoreFunction, context: WorkingContext, scale: float, rng: np.random.Generator
) -> ScoreFunction:
    """`score` with normal noise of that scale, drawn once for every node of the history."""
    counts = complete_counts(context.num_tokens, context.block_size)
    counts[0] = -(-context.num_tokens // context.block_size)  # tokens are scored by the block
    noise = [rng.normal(scale=scale, size=count) for count in counts]

    def noisy(seen: WorkingContext) -> np.ndarray:
        own = np.array(
            [noise[lod][index] for lod, index in zip(seen.lod.tolist(), seen.index.tolist(), strict=True)]
        )
        return np.clip(score(seen) + own, -1.0, 1.0)

    return noisy


def siblings(
    context: WorkingContext,
    score: ScoreFunction,
    budget: int,
    allocator: AllocatorConfig,
    count: int,
    *,
    noise: float,
    max_steps: int,
    rng: np.random.Generator,
) -> list[Sibling]:
    """Up to `count` siblings of `context`, all different from it and from each other."""
    found: dict[WorkingContext, Sibling] = {}
    for number in range(_TRIES_PER_SIBLING * count):
        if len(found) >= count:
            break
        own = score if number == 0 else blurred(score, context, noise, rng)
        steps = refocus(context, own, budget, AllocatorState(), allocator, max_steps)
        if steps[-1].context != context:
            found.setdefault(steps[-1].context, Sibling(steps[-1].context, tuple(steps)))
    return list(found.values())
