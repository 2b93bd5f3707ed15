"""Facts about explanations: each entry gets the one reason that stood in the way, and nothing is computed unasked."""

from dataclasses import replace

import numpy as np
import pytest
from focus_checks import by_blocks, contexts
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.focus import (
    STRATEGIES,
    AllocatorConfig,
    AllocatorState,
    Edit,
    Reason,
    Rules,
    WorkingContext,
    plan,
    refocus,
)
from megacontext.spans import Node

FRESH = AllocatorState()
CONFIG = AllocatorConfig(protect_recent_tokens=0)


def first(context, scores, budget, config=CONFIG, rules=None, state=FRESH, max_steps=9):
    return refocus(context, by_blocks(scores), budget, state, config, max_steps, rules or Rules())[0]


def row(step):
    return [Reason(code) for code in step.reasons]


def test_each_entry_says_what_became_of_it():
    context = WorkingContext.cover(32 * 9 + 3, 32).edited([Edit("expand", slot) for slot in (1, 2, 3, 8)])
    scores = [0.9, -0.9, -0.8, -0.3, 0.5, 0.8, 0.1, -0.7, 0.6]
    rules = Rules(pinned=((32, 33),), excluded=((32 * 5, 32 * 6),))
    step = first(context, scores, context.cost, replace(CONFIG, max_edits=2), rules)
    assert step.edits == (Edit("collapse", 2), Edit("expand", 0))
    assert row(step) == [
        Reason.EXPANDED,
        Reason.PINNED,
        Reason.COLLAPSED,
        Reason.NOT_NEEDED,
        Reason.EDIT_LIMIT,
        Reason.EXCLUDED,
        Reason.BELOW_THRESHOLD,
        Reason.SPLIT_FAMILY,
        Reason.BELOW_THRESHOLD,  # raw: nothing finer exists
        Reason.BELOW_THRESHOLD,  # the tail
    ]
    assert step.refused == 2


def test_the_budget_is_named_where_nothing_is_to_be_given_up():
    context = WorkingContext.cover(128, 32).edited([Edit("expand", 1)])
    step = first(context, [0.9, 0.0, 0.8, -0.9], context.cost + 30)
    assert row(step) == [Reason.BUDGET, Reason.BELOW_THRESHOLD, Reason.BUDGET, Reason.SPLIT_FAMILY]


def test_what_is_protected_or_beside_something_wanted_says_so():
    context = WorkingContext.cover(1024 + 64, 32).edited([Edit("expand", 0), Edit("expand", 2)])
    scores = np.full(34, -0.9)
    scores[7] = 0.5
    step = first(context, scores, context.cost, AllocatorConfig(protect_recent_tokens=1))
    assert context.is_raw(np.array([33]))[0] and step.edits == ()
    assert row(step)[6:8] == [Reason.WANTED_SIBLING, Reason.BUDGET]
    assert row(step)[32:] == [Reason.SPLIT_FAMILY, Reason.PROTECTED]


def test_a_step_limit_counts_as_a_limit_of_edits_and_room_left_over_as_a_choice():
    context = WorkingContext.cover(4 * 1024, 32)
    scores = np.repeat([0.9, -0.9, 0.8, -0.9], 32)
    assert row(first(context, scores, 2000, max_steps=0))[0] is Reason.EDIT_LIMIT
    # Two ways down cost 4 expansions, there is room for three.
    step = first(context, scores, context.cost + 3 * 31)
    assert row(step) == [Reason.EXPANDED, Reason.SPLIT_FAMILY, Reason.PASSED_OVER, Reason.SPLIT_FAMILY]


def test_what_was_just_edited_the_other_way_rests():
    context = WorkingContext.cover(96, 32).edited([Edit("expand", 0)])
    state = AllocatorState(step=5, expanded_at={Node(1, 0): 4}, collapsed_at={Node(1, 2): 5})
    step = first(context, [-0.9, 0.9, 0.8], context.cost + 31, replace(CONFIG, max_edits=1), state=state)
    assert step.edits == (Edit("expand", 1),)
    assert row(step) == [Reason.RESTING, Reason.EXPANDED, Reason.RESTING]


@given(
    contexts(),
    st.integers(0, 2**32 - 1),
    st.sampled_from([name for name in STRATEGIES.names() if name != "exact"]),
)
@settings(max_examples=60)
def test_reasons_agree_with_edits_and_with_the_count_of_what_was_refused(context, seed, strategy):
    random = np.random.default_rng(seed)
    config = AllocatorConfig(strategy=strategy, max_edits=int(random.integers(1, 6)))
    rules = Rules(excluded=((7, 9 + int(random.integers(40))),))
    budget = max(context.cost, context.block_size) + int(random.integers(0, 3)) * context.block_size
    score = lambda c: np.random.default_rng(len(c)).uniform(-1, 1, len(c))  # noqa: E731
    for step in refocus(context, score, budget, FRESH, config, 4, rules):
        codes = step.reasons
        assert codes.dtype == np.int8 and codes.shape == (len(step.context),)
        assert codes is step.reasons, "computed once"
        opened = {edit.slot for edit in step.edits if edit.kind == "expand"}
        assert set(np.flatnonzero(codes == Reason.EXPANDED)) == opened
        folded = np.flatnonzero(codes == Reason.COLLAPSED)
        assert {edit.slot for edit in step.edits if edit.kind == "collapse"} <= set(folded)
        wants = [Reason.EXCLUDED, Reason.RESTING, Reason.EDIT_LIMIT, Reason.BUDGET, Reason.PASSED_OVER]
        wanted = (step.context.lod > 0) & (step.scores > config.threshold)
        assert np.isin(codes[wanted], [*wants, Reason.EXPANDED]).all()
        assert step.refused == np.isin(codes[wanted], wants).sum()
        low = np.isin(codes, [Reason.NOT_NEEDED, Reason.WANTED_SIBLING, Reason.PINNED, Reason.PROTECTED])
        assert not (low & wanted).any()


def test_reasons_are_not_computed_while_planning(monkeypatch):
    asked = []
    monkeypatch.setattr("megacontext.focus.allocator.reasons", lambda *a, **k: asked.append(1))
    context = WorkingContext.cover(32**3, 32)
    steps = refocus(context, lambda c: np.ones(len(c)), 500, FRESH, CONFIG, 3)
    plan(context, np.ones(len(context)), 500, FRESH, CONFIG)
    assert not asked
    _ = steps[0].reasons
    assert asked


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words(reason):
    assert len(reason.words) > 10
