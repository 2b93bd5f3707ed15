"""Facts about the allocator: budgets hold, scores are obeyed, nothing thrashes, every refocus ends."""

from dataclasses import replace

import numpy as np
import pytest
from focus_checks import by_blocks, check_invariants, check_steps, contexts, raw_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import BudgetError, ConfigError, ShapeError, UnknownVariantError
from megacontext.focus import (
    AllocatorConfig,
    AllocatorState,
    Edit,
    WorkingContext,
    checked_scores,
    fit,
    plan,
    refocus,
)
from megacontext.spans import Node

FRESH = AllocatorState()
CONFIG = AllocatorConfig()


def recency(context):
    return np.linspace(-1, 1, len(context)) if len(context) > 1 else np.ones(len(context))


@pytest.mark.parametrize("block", [0, 31, 32, 500, 1023, 1055])
@pytest.mark.parametrize("budget", [160, 256, 2048])
def test_one_refocus_walks_from_a_high_gist_down_to_the_block(block, budget):
    context = WorkingContext.cover(32**3 + 32**2 + 7, 32)
    scores = np.full(1056, -0.5)
    scores[block] = 0.9
    final = check_steps(refocus(context, by_blocks(scores), budget, FRESH, CONFIG, 32), budget)
    assert raw_blocks(final) == [block]
    levels = 3 if block < 1024 else 2
    assert final.cost == context.cost + 31 * levels  # nothing was opened beside the path


def test_descent_takes_one_step_a_level_whatever_the_cooldown():
    config = AllocatorConfig(cooldown_steps=50)
    scores = np.full(1024, -1.0)
    scores[77] = 1.0
    steps = refocus(WorkingContext.cover(32**3, 32), by_blocks(scores), 128, FRESH, config, 32)
    assert [len(step.edits) for step in steps] == [1, 1, 1, 0]
    assert raw_blocks(check_steps(steps, 128, config)) == [77]


def test_as_many_high_gists_are_opened_side_by_side_as_can_be_followed_to_tokens():
    context = WorkingContext.cover(16 * 1024, 32)
    scores = np.full(16, -1.0)
    scores[[2, 5, 9, 14]] = 0.6, 0.9, 0.7, 0.8
    # Two levels down cost 62 positions each; there is room for two and a half such ways.
    step = plan(context, scores, 16 + 5 * 31, FRESH, CONFIG)
    assert {edit.slot for edit in step.edits} == {5, 14}
    assert step.refused == 2


def test_the_best_candidate_is_opened_even_where_its_way_down_does_not_fit():
    context = WorkingContext.cover(16 * 1024, 32)
    scores = np.full(16, -1.0)
    scores[[2, 5]] = 0.6, 0.9
    assert plan(context, scores, 16 + 31, FRESH, CONFIG).edits == (Edit("expand", 5),)


@pytest.mark.parametrize("max_edits", [1, 2, 3, 4])
def test_room_is_made_by_collapsing_low_raw_blocks(max_edits):
    config = AllocatorConfig(max_edits=max_edits)
    context = WorkingContext.cover(32 * 20 + 3, 32)
    budget = context.cost + 3 * 31
    context = context.apply([Edit("expand", slot) for slot in (2, 5, 9)], budget)
    scores = np.full(20, -0.1)
    scores[[2, 5, 9]] = [-0.9, 0.1, -0.5]
    scores[[12, 13]] = [0.9, 0.5]
    final = check_steps(refocus(context, by_blocks(scores), budget, FRESH, config, 32), budget, config)
    assert raw_blocks(final) == [5, 12, 13]


def test_only_as_much_is_collapsed_as_is_needed():
    context = WorkingContext.cover(32 * 20, 32).edited([Edit("expand", slot) for slot in (2, 5, 9)])
    scores = np.full(20, -0.8)
    scores[9] = -0.9
    scores[12] = 0.9
    final = check_steps(refocus(context, by_blocks(scores), context.cost, FRESH, CONFIG, 32), context.cost)
    assert raw_blocks(final) == [2, 5, 12]
    assert check_steps(refocus(context, by_blocks(scores - 1e-9), 2048, FRESH, CONFIG, 32), 2048) != context
    nothing_wanted = np.full(20, -0.9)
    assert check_steps(refocus(context, by_blocks(nothing_wanted), 113, FRESH, CONFIG, 32), 113) == context


def test_a_group_with_a_raw_block_inside_folds_in_two_steps():
    # LOD2 node 0 is open and one of its blocks is raw; node 1 wants to be opened, and then its block 40.
    context = WorkingContext.cover(2048, 32).edited([Edit("expand", 0)]).edited([Edit("expand", 4)])
    scores = np.full(64, -0.8)
    scores[40] = 0.9
    steps = refocus(context, by_blocks(scores), context.cost, FRESH, CONFIG, 32)
    final = check_steps(steps, context.cost)
    assert raw_blocks(final) == [40]
    assert final.lod[0] == 2
    kinds = [[edit.kind for edit in step.edits] for step in steps]
    assert kinds == [["collapse", "expand"], ["collapse", "expand"], []]


@pytest.mark.parametrize("score", [-0.19, 0.0, 0.2])
def test_scores_within_the_thresholds_change_nothing(score):
    context = WorkingContext.cover(32 * 40, 32).edited([Edit("expand", 1)])
    steps = refocus(context, lambda c: np.full(len(c), score), 2048, FRESH, CONFIG, 32)
    assert len(steps) == 1
    assert steps[0].edits == ()
    assert steps[0].refused == 0


@pytest.mark.parametrize("constant", [-1.0, -0.3, 0.3, 1.0])
@pytest.mark.parametrize("budget", [33, 64, 240, 600])
def test_constant_scores_do_not_thrash(constant, budget):
    context, state, history = WorkingContext.cover(1024 + 9, 32), FRESH, []
    for _ in range(60):
        planned = plan(context, np.full(len(context), constant), budget, state, CONFIG)
        history += [edit.kind for edit in planned.edits]
        context, state = context.apply(planned.edits, budget), planned.state
    assert "collapse" not in history
    assert planned.edits == ()
    assert planned.refused == (0 if constant < 0 else np.count_nonzero(context.lod))


@given(st.integers(0, 2**32 - 1), st.integers(130, 700), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_scores_of_blocks_settle_and_are_never_edited_back(seed, budget, max_edits):
    config = AllocatorConfig(max_edits=max_edits)
    random = np.random.default_rng(seed)
    score = by_blocks(np.clip(random.normal(-0.4, 0.5, 4 * 32 + 5), -1, 1))
    context = WorkingContext.cover(4 * 1024 + 5 * 32 + 3, 32)
    steps = refocus(context, score, budget, FRESH, config, 400)
    final = check_steps(steps, budget, config)
    assert len(steps) < 400
    again = refocus(final, score, budget, steps[-1].state, config, 400)
    assert [step.edits for step in again] == [()]
    opened = [
        (step.context.lod[edit.slot], step.context.index[edit.slot])
        for step in steps
        for edit in step.edits
        if edit.kind == "expand"
    ]
    assert len(set(opened)) == len(opened)


def test_cooldown_holds_a_reversal_back_for_as_many_steps():
    config = AllocatorConfig(cooldown_steps=3, protect_recent_tokens=0)
    context = WorkingContext.cover(32 * 3, 32)
    budget = 34
    likes_first, likes_last = by_blocks([0.9, -0.9, -0.9]), by_blocks([-0.9, -0.9, 0.9])
    state, taken = FRESH, []
    for score in [likes_first] + [likes_last] * 5 + [likes_first] * 5:
        planned = plan(context, score(context), budget, state, config)
        taken.append(len(planned.edits))
        assert planned.waiting == (
            not planned.edits and raw_blocks(context) != [int(score is likes_last) * 2]
        )
        context, state = context.apply(planned.edits, budget), planned.state
    assert taken == [1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0]
    assert raw_blocks(context) == [0]
    assert set(state.expanded_at) == {Node(1, 0)}  # what has rested is forgotten


def test_a_refocus_does_not_score_again_while_it_waits():
    context = WorkingContext.cover(32 * 3, 32)
    config = AllocatorConfig(protect_recent_tokens=0)
    first = refocus(context, by_blocks([0.9, -0.9, -0.9]), 34, FRESH, config, 32)
    calls = []

    def likes_last(context):
        calls.append(len(context))
        return by_blocks([-0.9, -0.9, 0.9])(context)

    second = refocus(first[-1].context, likes_last, 34, first[-1].state, config, 32)
    assert raw_blocks(check_steps(second, 34)) == [2]
    assert len(calls) == len(second) == 2


def test_recent_tokens_are_never_collapsed_for_others():
    context = WorkingContext.cover(32 * 4 + 5, 32)
    context = context.edited([Edit("expand", 3)])
    score = by_blocks([0.9, -0.9, -0.9, -0.9])
    steps = refocus(context, score, context.cost, FRESH, CONFIG, 32)
    assert raw_blocks(steps[-1].context) == [3]
    assert steps[-1].refused == 1
    unprotected = replace(CONFIG, protect_recent_tokens=5)
    final = refocus(context, score, context.cost, FRESH, unprotected, 32)[-1].context
    assert raw_blocks(final) == [0]


def test_recency_ends_with_the_newest_blocks_raw_and_the_budget_filled():
    context = WorkingContext.cover(16_384 + 7, 32)
    steps = refocus(context, recency, 240, FRESH, CONFIG, 100)
    final = check_steps(steps, 240)
    assert len(steps) < 20
    assert 240 - final.cost < 31
    raw = raw_blocks(final)
    assert raw == list(range(512 - len(raw), 512))
    assert len(raw) == 6


@pytest.mark.parametrize("num_tokens", [0, 5, 32, 1025, 4099, 16_391, 150_001, 1_000_003])
@pytest.mark.parametrize("budget", [128, 160, 256, 512, 1024])
def test_recency_converges_on_the_newest_blocks_at_any_size(num_tokens, budget):
    context = WorkingContext.cover(num_tokens, 32)
    if context.cost > budget:
        return
    steps = refocus(context, recency, budget, FRESH, CONFIG, 500)
    assert len(steps) < 500
    final = check_steps(steps, budget)
    raw = raw_blocks(final)
    assert raw == list(range(num_tokens // 32 - len(raw), num_tokens // 32))


@given(st.integers(0, 2**32 - 1), st.integers(33, 2048), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_random_scores_and_growing_histories_never_break_an_invariant(seed, budget, cooldown_steps):
    random = np.random.default_rng(seed)
    config = AllocatorConfig(
        cooldown_steps=cooldown_steps, max_edits=int(random.integers(1, 9)), protect_recent_tokens=0
    )
    context, state = WorkingContext.cover(int(random.integers(0, 40_000)), 32), FRESH
    if context.cost > budget:
        context = WorkingContext.cover(budget, 32)
    for _ in range(80):
        grown = context.extend(context.num_tokens + int(random.integers(0, 50)))
        if WorkingContext.cover(grown.num_tokens, 32).cost <= budget:
            context = fit(grown, budget, protect_recent_tokens=int(random.integers(0, 100)))
        planned = plan(context, random.uniform(-1, 1, len(context)), budget, state, config)
        assert len(planned.edits) <= config.max_edits
        context, state = context.apply(planned.edits, budget), planned.state
        check_invariants(context)
        assert context.cost <= budget


@given(st.integers(0, 2**32 - 1), st.integers(100, 1500))
@settings(max_examples=25, deadline=None)
def test_a_refocus_ends_even_if_scores_are_drawn_anew_at_every_step(seed, budget):
    random = np.random.default_rng(seed)
    context = WorkingContext.cover(9_000, 32)
    steps = refocus(context, lambda c: random.uniform(-1, 1, len(c)), budget, FRESH, CONFIG, 10_000)
    check_steps(steps, budget)
    # A node opens and closes once at most: 281 blocks and 8 parents.
    assert sum(len(step.edits) for step in steps) <= 2 * (281 + 8)


@pytest.mark.parametrize("max_steps", [0, 1, 2])
def test_a_refocus_stops_after_max_steps_and_still_scores_its_result(max_steps):
    steps = refocus(
        WorkingContext.cover(32**3, 32), lambda c: np.ones(len(c)), 2048, FRESH, CONFIG, max_steps
    )
    assert len(steps) == max_steps + 1
    check_steps(steps, 2048)
    assert steps[-1].refused == len(steps[-1].context) == len(steps[-1].scores)


def test_a_plan_is_a_pure_function_of_its_arguments():
    context = WorkingContext.cover(32**3, 32)
    state = AllocatorState(step=3, collapsed_at={Node(2, 5): 3})
    scores = np.linspace(-1, 1, len(context))
    one, other = (plan(context, scores, 999, state, CONFIG) for _ in range(2))
    assert one == other
    assert state == AllocatorState(step=3, collapsed_at={Node(2, 5): 3})


def test_ties_go_to_later_spans():
    context = WorkingContext.cover(32 * 10, 32)
    planned = plan(context, np.ones(10), 10 + 2 * 31, FRESH, CONFIG)
    assert planned.edits == (Edit("expand", 9), Edit("expand", 8))
    assert planned.refused == 8


@pytest.mark.parametrize(
    ("scores", "error", "says"),
    [
        (np.zeros(3), ShapeError, r"\(4,\), got float64 \(3,\); check the scorer"),
        (np.zeros((4, 1)), ShapeError, r"\(4, 1\)"),
        (0.0, ShapeError, r"\(\)"),
        (["a"] * 4, ShapeError, "one number per entry"),
        ([0, 0, np.nan, 0], ConfigError, "first is nan in slot 2; calibrate"),
        ([0, 1.5, -2, 0], ConfigError, r"\[-1, 1\], 2 of 4 do not, the first is 1.5 in slot 1"),
        ([np.inf, 0, 0, 0], ConfigError, "inf"),
    ],
)
def test_a_scorer_that_breaks_the_contract_is_told_so(scores, error, says):
    context = WorkingContext.cover(128, 32)
    with pytest.raises(error, match=says):
        refocus(context, lambda c: scores, 100, FRESH, CONFIG, 3)


def test_scores_may_round_beyond_one_and_be_integers():
    context = WorkingContext.cover(64, 32)
    checked_scores(context, np.float32([1.0000001, -1]))
    assert checked_scores(context, np.array([1, -1])).dtype == np.float64


def test_a_budget_below_one_block_or_below_the_context_is_refused():
    context = WorkingContext.cover(64, 32)
    with pytest.raises(BudgetError, match="one block of 32 tokens, got 31"):
        plan(context, np.zeros(2), 31, FRESH, CONFIG)
    with pytest.raises(BudgetError, match="costs 64; fit it first"):
        plan(WorkingContext.raw(64, 32), np.zeros(2), 40, FRESH, CONFIG)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": -0.1}, "threshold"),
        ({"max_edits": 0}, "max_edits must be at least 1, got 0"),
        ({"cooldown_steps": -1}, "cooldown_steps"),
        ({"protect_recent_tokens": -1}, "protect_recent_tokens"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        AllocatorConfig(**change)


def test_an_unknown_strategy_is_refused_with_a_suggestion():
    with pytest.raises(UnknownVariantError, match="did you mean 'greedy'"):
        AllocatorConfig(strategy="greddy")


@given(contexts(block_sizes=(4, 32)), st.integers(4, 300), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=100, deadline=None)
def test_fitting_reaches_any_budget_that_holds_the_cover_and_no_further(context, budget, seed, scored):
    scores = np.random.default_rng(seed).uniform(-1, 1, len(context)) if scored else None
    least = max(WorkingContext.cover(context.num_tokens, context.block_size).cost, context.block_size)
    if budget < least:
        with pytest.raises(BudgetError):
            fit(context, budget, scores)
        return
    fitted = fit(context, budget, scores)
    check_invariants(fitted)
    assert fitted.cost <= budget
    if context.cost <= budget:
        assert fitted == context
    else:
        assert budget - fitted.cost < context.block_size - 1


def test_fitting_folds_the_oldest_first_and_the_lowest_when_scored():
    raw = WorkingContext.raw(32 * 10 + 3, 32)
    assert raw_blocks(fit(raw, raw.cost - 2 * 31)) == [2, 3, 4, 5, 6, 7, 8, 9]
    scores = np.linspace(1, -1, 11)
    assert raw_blocks(fit(raw, raw.cost - 2 * 31, scores, protect_recent_tokens=32)) == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        9,
    ]
    deep = fit(WorkingContext.raw(5 * 1024, 32), 200, protect_recent_tokens=64)
    assert raw_blocks(deep)[-2:] == [158, 159]
    assert (np.diff(np.maximum(deep.lod, 0)) <= 0).all()  # coarse old, fine new


def test_an_empty_history_has_nothing_to_focus():
    steps = refocus(WorkingContext.cover(0, 32), lambda c: np.empty(0), 64, FRESH, CONFIG, 5)
    assert len(steps) == 1
    assert len(steps[0].context) == 0
    assert fit(WorkingContext.cover(0, 32), 64).cost == 0
