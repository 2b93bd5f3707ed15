"""Facts about the way from one context to another: it arrives, with no edit too many, within the budget throughout."""

import numpy as np
import pytest
from focus_checks import check_invariants
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import BudgetError, ShapeError
from megacontext.focus import Edit, WorkingContext, toward


def opened_nodes(context):
    """Nodes above an entry: those that were expanded to make this context."""
    size = context.block_size
    above = set()
    for lod, index, cost in zip(
        context.lod.tolist(), context.index.tolist(), context.costs.tolist(), strict=True
    ):
        if lod == 0:
            if cost < size:
                continue
            above.add((1, index))
            lod = 1
        while (index + 1) * size**lod <= context.num_tokens:
            if lod > 1 or cost == 1:
                above.add((lod, index))
            lod, index = lod + 1, index // size
    return above - {
        (int(lod), int(index)) for lod, index in zip(context.lod, context.index, strict=True) if lod
    }


def opened_at_random(num_tokens, size, seed, most):
    random = np.random.default_rng(seed)
    context = WorkingContext.cover(num_tokens, size)
    for _ in range(most):
        gists = np.flatnonzero(context.lod > 0)
        if len(gists):
            context = context.edited([Edit("expand", int(random.choice(gists)))])
    return context


@given(
    st.sampled_from([2, 3, 4, 32]),
    st.integers(0, 2000),
    st.integers(0, 2**32 - 1),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 70),
    st.integers(1, 6),
)
@settings(max_examples=200)
def test_every_goal_is_reached_with_the_fewest_edits(size, num_tokens, seed, here, there, spare, max_edits):
    context = opened_at_random(num_tokens, size, seed, here)
    goal = opened_at_random(num_tokens, size, seed + 1, there)
    budget = max(context.cost, goal.cost) + spare
    distance = len(opened_nodes(context) ^ opened_nodes(goal))
    made = 0
    while edits := toward(context, goal, budget, max_edits):
        assert len(edits) <= max_edits
        context = context.apply(edits, budget)
        check_invariants(context)
        made += len(edits)
        assert len(opened_nodes(context) ^ opened_nodes(goal)) == distance - made
    assert context == goal and made == distance


def test_ways_down_that_were_begun_are_finished_first():
    context = WorkingContext.cover(3 * 1024, 32).edited([Edit("expand", 1)])
    raw = WorkingContext.raw(3 * 1024, 32)
    assert toward(context, raw, 10_000, 2) == [Edit("expand", 32), Edit("expand", 31)]


def test_only_what_may_be_edited_is():
    context = WorkingContext.cover(320, 32).edited([Edit("expand", 0), Edit("expand", 1)])
    goal = WorkingContext.cover(320, 32).edited([Edit("expand", 5), Edit("expand", 6)])
    may_expand, may_collapse = np.ones(10, dtype=bool), np.ones(10, dtype=bool)
    may_expand[6] = may_collapse[1] = False
    edits = toward(context, goal, context.cost, 9, may_expand=may_expand, may_collapse=may_collapse)
    assert edits == [Edit("collapse", 0), Edit("expand", 5)]


def test_goals_that_cannot_be_reached_are_refused():
    context = WorkingContext.cover(320, 32)
    with pytest.raises(ShapeError, match="352 tokens in blocks of 32 are not 320"):
        toward(context, WorkingContext.cover(352, 32), 999, 4)
    with pytest.raises(BudgetError, match="the goal costs 320"):
        toward(context, WorkingContext.raw(320, 32), 319, 4)
    with pytest.raises(BudgetError, match="the context costs 320"):
        toward(WorkingContext.raw(320, 32), context, 319, 4)
    assert toward(WorkingContext.cover(0, 32), WorkingContext.raw(0, 32), 32, 4) == []
