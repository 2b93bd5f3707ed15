"""The invariants of a working context from their definition, and a strategy that draws contexts."""

import numpy as np
from hypothesis import strategies as st

from megacontext.focus import Edit, WorkingContext


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
