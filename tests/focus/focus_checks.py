"""The invariants of a working context from their definition, and what the tests of focus share."""

import numpy as np
from hypothesis import strategies as st

from megacontext.focus import AllocatorConfig, Edit, WorkingContext


def check_invariants(context):
    """The invariants again, from the definition and one entry at a time."""
    size, covered, cost = context.block_size, 0, 0
    for slot in range(len(context)):
        lod, index = int(context.lod[slot]), int(context.index[slot])
        start = index * size ** max(lod, 1)
        stop = min(start + size ** max(lod, 1), context.num_tokens)
        assert start == covered, "entries tile the history"
        assert lod == 0 or stop == start + size**lod, "a gist stands for a complete node"
        assert (context.start[slot], context.stop[slot]) == (start, stop)
        assert context.costs[slot] == (stop - start if lod == 0 else 1)
        covered, cost = stop, cost + int(context.costs[slot])
    assert covered == context.num_tokens
    assert context.cost == cost


@st.composite
def contexts(draw, block_sizes=(2, 3, 4, 32)):
    """Any context: a cover, opened at random places."""
    size = draw(st.sampled_from(block_sizes))
    context = WorkingContext.cover(draw(st.integers(0, 40 * size)), size)
    for place in draw(st.lists(st.floats(0, 1), max_size=12)):
        gists = np.flatnonzero(context.lod > 0)
        if len(gists):
            slot = gists[int(place * (len(gists) - 1))]
            context = context.edited([Edit("expand", int(slot))])
    return context


def by_blocks(scores):
    """A scorer from one score per block: an entry gets the highest of the blocks under it, the tail 0."""
    scores = np.asarray(scores, dtype=float)

    def score(context):
        first = context.start // context.block_size
        last = np.maximum(context.stop // context.block_size, first + 1)
        padded = np.append(scores, 0.0)
        return np.array([padded[a:b].max() for a, b in zip(first, last, strict=True)])

    return score


def raw_blocks(context):
    return context.index[(context.lod == 0) & (context.costs == context.block_size)].tolist()


def check_steps(steps, budget, config=None):
    """What holds for every refocus; returns the final context."""
    config = config or AllocatorConfig()
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        check_invariants(step.context)
        assert step.context.cost <= budget
        assert len(step.edits) <= config.max_edits
        assert (not step.edits) == (following is None)
        assert step.latency_ms > 0
        if following is not None:
            assert step.context.apply(step.edits, budget) == following.context
    return steps[-1].context
