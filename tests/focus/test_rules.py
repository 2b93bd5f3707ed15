"""Facts about rules: what is pinned is read as tokens, what is excluded is never opened, whatever a strategy wants."""

from dataclasses import replace

import numpy as np
import pytest
from focus_checks import by_blocks, check_invariants, check_steps, contexts, raw_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import BudgetError, ConfigError, IllegalEditError
from megacontext.focus import (
    NO_RULES,
    STRATEGIES,
    AllocatorConfig,
    AllocatorState,
    Edit,
    Rules,
    WorkingContext,
    fit,
    plan,
    refocus,
)

FRESH = AllocatorState()
CONFIG = AllocatorConfig()


@st.composite
def spans(draw, most=400):
    start = draw(st.integers(0, most))
    return start, start + draw(st.integers(1, 90))


def test_spans_are_sorted_and_merged_so_that_equal_rules_are_equal():
    rules = Rules(pinned=((64, 96), (0, 10), (10, 20), (70, 80)))
    assert rules.pinned == ((0, 20), (64, 96))
    assert rules == Rules(pinned=((0, 20), (64, 96))) and hash(rules) == hash(replace(rules))
    assert Rules() == NO_RULES


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pinned": ((3, 3),)}, r"pinned spans must be pairs .* got \(3, 3\); write \[start, stop\)"),
        ({"excluded": ((-1, 3),)}, r"excluded .* got \(-1, 3\)"),
        ({"pinned": ((5, 4),)}, r"got \(5, 4\)"),
        ({"pinned": ((0.0, 4),)}, "got"),
        ({"pinned": ((0, True),)}, "got"),
        ({"pinned": (7,)}, "got 7"),
        ({"pinned": ((0, 4, 8),)}, "got"),
        ({"pinned": ((0, 40),), "excluded": ((39, 64),)}, r"not both, \(0, 40\) and \(39, 64\) overlap"),
    ],
)
def test_rules_that_make_no_sense_are_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        Rules(**given)


@given(st.lists(spans(), max_size=4), st.lists(spans(), max_size=4), st.sampled_from([2, 3, 32]), contexts())
@settings(max_examples=150)
def test_what_is_pinned_and_excluded_is_found_as_block_by_block(pinned, excluded, size, context):
    if any(a < d and c < b for a, b in pinned for c, d in excluded):
        return
    rules = Rules(pinned=tuple(pinned), excluded=tuple(excluded))
    size = context.block_size

    def touched(spans, block):
        return any(a < (block + 1) * size and block * size < b for a, b in spans)

    blocks = range(-(-context.num_tokens // size))
    is_pinned = [touched(pinned, block) for block in blocks]
    is_closed = [touched(excluded, block) and not is_pinned[block] for block in blocks]
    start, stop = context.start, -(-context.stop // size) * size
    pins, excludes = rules.pins(start, stop, size), rules.excludes(start, stop, size)
    for slot in range(len(context)):
        under = slice(start[slot] // size, stop[slot] // size)
        assert pins[slot] == any(is_pinned[under])
        assert excludes[slot] == all(is_closed[under])
    assert rules.pinned_tokens(context.num_tokens, size) == sum(
        min(size, context.num_tokens - block * size) for block in blocks if is_pinned[block]
    )


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_what_is_pinned_makes_no_room(strategy):
    config = AllocatorConfig(strategy=strategy, protect_recent_tokens=0)
    context = WorkingContext.cover(32 * 20, 32).edited([Edit("expand", slot) for slot in (2, 5)])
    scores = np.full(20, -0.9)
    scores[12] = 0.9
    goal = WorkingContext.cover(32 * 20, 32).edited([Edit("expand", 12)])
    for pinned, blocks in [
        (((70, 71),), [2, 12]),
        (((160, 192),), [5, 12]),
        (((64, 96), (160, 161)), [2, 5]),
    ]:
        steps = refocus(
            context, by_blocks(scores), context.cost, FRESH, config, 32, Rules(pinned=pinned), goal=goal
        )
        assert raw_blocks(check_steps(steps, context.cost, config)) == blocks
    unruled = refocus(context, by_blocks(scores), context.cost, FRESH, config, 32, goal=goal)
    assert 12 in raw_blocks(unruled[-1].context)


def test_a_refocus_brings_what_is_pinned_to_tokens_and_makes_room_for_it():
    context = WorkingContext.cover(32**3 + 40, 32)
    rules = Rules(pinned=((0, 100), (20_000, 20_001)))
    budget = 600
    start = fit(context.edited([Edit("expand", 0)]), budget)
    full = refocus(start, lambda c: np.linspace(-1, 1, len(c)), budget, FRESH, CONFIG, 99)[-1].context
    for before in (context, start, full):
        steps = refocus(before, lambda c: np.full(len(c), -0.1), budget, FRESH, CONFIG, 0, rules)
        final = check_steps(steps, budget)
        assert {0, 1, 2, 3, 625} <= set(raw_blocks(final))
    assert raw_blocks(refocus(context, lambda c: np.zeros(len(c)), budget, FRESH, CONFIG, 0, rules)[-1].context) == [
        0, 1, 2, 3, 625,
    ]  # fmt: skip


def test_room_for_what_is_pinned_is_made_where_scores_are_lowest():
    context = WorkingContext.cover(32 * 20, 32).edited([Edit("expand", slot) for slot in (2, 5, 9)])
    scores = np.zeros(20)
    scores[[2, 5, 9]] = 0.1, -0.1, 0.15
    final = refocus(context, by_blocks(scores), context.cost, FRESH, CONFIG, 4, Rules(pinned=((0, 32),)))[
        -1
    ].context
    assert raw_blocks(final) == [0, 2, 9]


def test_a_budget_that_does_not_hold_what_is_pinned_is_refused_with_a_sentence():
    context = WorkingContext.cover(32**3, 32)
    with pytest.raises(
        BudgetError, match="is pinned, that is 320 positions in whole blocks, got 300; pin less"
    ):
        refocus(context, lambda c: np.zeros(len(c)), 300, FRESH, CONFIG, 4, Rules(pinned=((5, 300),)))
    # One block beside 31 + 31 gists.
    rules = Rules(pinned=((5, 6),))
    assert refocus(context, lambda c: np.zeros(len(c)), 94, FRESH, CONFIG, 4, rules)[-1].context.cost == 94
    with pytest.raises(BudgetError, match=r"pinned with the coarsest cover .* need 94 positions, got 93"):
        refocus(context, lambda c: np.zeros(len(c)), 93, FRESH, CONFIG, 4, rules)


def test_planning_refuses_a_context_with_a_folded_pin():
    with pytest.raises(IllegalEditError, match="slot 1 is a gist of LOD1; fit it"):
        plan(WorkingContext.cover(96, 32), np.zeros(3), 96, FRESH, CONFIG, Rules(pinned=((32, 40),)))


def test_a_pin_beyond_the_history_counts_once_it_is_there():
    rules = Rules(pinned=((0, 1000),))
    context = WorkingContext.raw(10, 32)
    for _ in range(30):
        context = fit(context.extend(context.num_tokens + 50), 1100, rules=rules)
        assert context.is_raw(np.arange(-(-min(1000, context.num_tokens) // 32))).all()
    assert context.num_tokens == 1510 and not context.is_raw(np.array([35]))[0]


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_what_is_excluded_is_never_opened(strategy):
    config = AllocatorConfig(strategy=strategy)
    context = WorkingContext.cover(4 * 1024, 32)
    rules = Rules(excluded=((0, 1024), (1100, 1130), (3000, 3001)))
    raw = WorkingContext.raw(4 * 1024, 32)
    score = by_blocks(np.ones(128))
    steps = refocus(context, score, 5000, FRESH, config, 1000, rules, goal=raw)
    final = check_steps(steps, 5000, config)
    blocks = set(range(32, 128)) - {34, 35, 93}
    assert set(raw_blocks(final)) == blocks
    assert final.lod[0] == 2


def test_what_is_excluded_is_folded_first_when_a_history_grows():
    context = WorkingContext.raw(32 * 10, 32)
    scores = np.zeros(10)
    scores[[6, 7]] = 1
    rules = Rules(excluded=((32 * 6, 32 * 8),))
    assert raw_blocks(fit(context, context.cost - 3 * 31, scores, rules=rules)) == [1, 2, 3, 4, 5, 8, 9]


ROGUES = {
    "folds what is pinned": (lambda options, config: [Edit("collapse", 0)], "collapse slot 0"),
    "opens what is excluded": (lambda options, config: [Edit("expand", 3)], "expand slot 3"),
    "folds what is recent": (lambda options, config: [Edit("collapse", 9)], "collapse slot 9"),
    "opens tokens": (lambda options, config: [Edit("expand", 0)], "expand slot 0"),
    "names no slot": (lambda options, config: [Edit("expand", -1)], "expand slot -1"),
    "does too much": (
        lambda options, config: [Edit("expand", slot) for slot in (1, 2, 4, 5, 6)],
        "at most 4",
    ),
}


@pytest.mark.parametrize("rogue", ROGUES)
def test_a_strategy_that_breaks_a_rule_is_refused(rogue, monkeypatch):
    strategy, says = ROGUES[rogue]
    monkeypatch.setitem(STRATEGIES._entries, "rogue", strategy)
    context = WorkingContext.cover(320, 32).edited([Edit("expand", 0), Edit("expand", 9)])
    rules = Rules(pinned=((0, 1),), excluded=((96, 128),))
    with pytest.raises(IllegalEditError, match=says):
        plan(context, np.zeros(10), 999, FRESH, AllocatorConfig(strategy="rogue"), rules)


def test_a_strategy_that_spends_too_much_is_refused_where_it_is_applied(monkeypatch):
    monkeypatch.setitem(
        STRATEGIES._entries, "rogue", lambda options, config: [Edit("expand", 0), Edit("expand", 1)]
    )
    context = WorkingContext.cover(320, 32)
    with pytest.raises(BudgetError, match="costs 72"):
        refocus(context, lambda c: np.zeros(len(c)), 41, FRESH, AllocatorConfig(strategy="rogue"), 3)
    check_invariants(context)
