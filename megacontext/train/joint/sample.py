"""Step *sample*: diverse working contexts of one history, all legal tilings within one budget.

Every tiling is the coarsest cover with some of its gists opened, so a walk of random openings can reach them all. Each
walk has a place on the timeline that it is drawn to and a strength of that pull, so that some contexts show one spot in
detail and others a little of everything. Of more walks than are wanted, those are kept that lie furthest apart
(farthest-point sampling, Gonzalez 1985), the recency context always among them: it is what everybody can have for
nothing, and what a better context has to beat.

Deliberately knows nothing of scores, gists or what comes after the history: levels and indices.
"""

from __future__ import annotations

import numpy as np

from megacontext.errors import BudgetError
from megacontext.focus.context import WorkingContext

_WALKS_PER_CONTEXT = 3


def recency_context(cover: WorkingContext, budget: int) -> WorkingContext:
    """The last gist opened, and again the last, as long as there is room."""
    context = cover
    while len(gists := np.flatnonzero(context.lod)) and _has_room(context, budget):
        context = context.edited_at(expand=[int(gists[-1])])
    return context


def sample_contexts(
    num_tokens: int, block_size: int, budget: int, count: int, rng: np.random.Generator
) -> list[WorkingContext]:
    """Up to `count` different contexts of at most `budget` positions, the recency context first.

    Fewer where there are not so many. Raises BudgetError where not even the coarsest cover fits.
    """
    cover = WorkingContext.cover(num_tokens, block_size)
    if cover.cost > budget:
        raise BudgetError(
            f"the budget must hold the coarsest cover of {num_tokens:,} tokens, which costs {cover.cost}, got "
            f"{budget}; raise the stage's budget or shorten its passages"
        )
    chosen = [recency_context(cover, budget)]
    others = {_walk(cover, budget, rng) for _ in range(_WALKS_PER_CONTEXT * (count - 1))} - set(chosen)
    # A set of contexts has no order of its own; the same state must give the same contexts.
    left = sorted(others, key=lambda context: (context.lod.tobytes(), context.index.tobytes()))
    nearest = np.array([distance(one, chosen[0]) for one in left])
    while len(chosen) < count and left:
        furthest = int(nearest.argmax())
        chosen.append(left.pop(furthest))
        nearest = np.delete(nearest, furthest)
        nearest = np.minimum(nearest, [distance(one, chosen[-1]) for one in left])
    return chosen


def block_levels(context: WorkingContext) -> np.ndarray:
    """The level that each block is shown at, int64 (blocks,), an unfinished one included; 0 for tokens."""
    blocks = -(-context.num_tokens // context.block_size)
    return context.lod[context.slot_of(np.arange(blocks) * context.block_size)]


def distance(one: WorkingContext, other: WorkingContext) -> float:
    """Share of the blocks that two contexts of one history show at different levels, 0..1."""
    return float((block_levels(one) != block_levels(other)).mean())


def _walk(cover: WorkingContext, budget: int, rng: np.random.Generator) -> WorkingContext:
    """Random openings until the budget is full; one walk in four stops earlier."""
    centre, pull = rng.uniform(0, cover.num_tokens), rng.exponential(4.0)
    room = (budget - cover.cost) // (cover.block_size - 1)
    openings = room if rng.random() < 0.75 else int(rng.integers(room + 1))
    context = cover
    for _ in range(openings):
        gists = np.flatnonzero(context.lod)
        if not len(gists):
            break
        away = np.abs((context.start + context.stop)[gists] / 2 - centre) / context.num_tokens
        chances = np.exp(-pull * away)
        context = context.edited_at(expand=[int(rng.choice(gists, p=chances / chances.sum()))])
    return context


def _has_room(context: WorkingContext, budget: int) -> bool:
    return context.cost + context.block_size - 1 <= budget
