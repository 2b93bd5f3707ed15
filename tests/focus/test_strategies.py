"""Facts about the strategies beside greedy: detail spreads, chance can be repeated, and exact arrives at the best."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from focus_checks import by_blocks, check_steps, raw_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import ConfigError
from megacontext.focus import (
    STRATEGIES,
    AllocatorConfig,
    AllocatorState,
    Edit,
    NodeUtilities,
    WorkingContext,
    best_context,
    plan,
    refocus,
    regret,
    value_of,
)

FRESH = AllocatorState()
BALANCED = AllocatorConfig(strategy="balanced")
STOCHASTIC = AllocatorConfig(strategy="stochastic")
EXACT = AllocatorConfig(strategy="exact")


@pytest.fixture
def two_families():
    """Two LOD2 nodes, both opened: 64 gists of LOD1."""
    return WorkingContext.cover(2048, 32).edited([Edit("expand", 0), Edit("expand", 1)])


def test_these_strategies_are_registered():
    assert STRATEGIES.names() == ["greedy", "stochastic", "balanced", "exact"]


def test_balanced_spreads_detail_where_greedy_heaps_it(two_families):
    scores = np.full(64, -0.5)
    scores[:8], scores[40:48] = 0.9, 0.8
    budget = two_families.cost + 8 * 31
    shares = {}
    for strategy in ("greedy", "balanced"):
        config = AllocatorConfig(strategy=strategy)
        final = check_steps(
            refocus(two_families, by_blocks(scores), budget, FRESH, config, 32), budget, config
        )
        raw = np.array(raw_blocks(final))
        shares[strategy] = [int((raw < 32).sum()), int((raw >= 32).sum())]
    assert shares == {"greedy": [8, 0], "balanced": [4, 4]}


@given(st.integers(0, 2**32 - 1), st.integers(2, 10))
@settings(max_examples=40)
def test_balanced_shares_in_proportion_to_mass(seed, families):
    # Wanted everywhere, and by family more or less: density m * 32 / P is about equal in the end.
    random = np.random.default_rng(seed)
    mass = random.uniform(0.65, 1.0, families)
    context = WorkingContext.cover(families * 1024, 32)
    context = context.edited([Edit("expand", slot) for slot in range(families)])
    budget = context.cost + 31 * 6 * families
    score = by_blocks(np.repeat(2 * mass - 1, 32))
    final = check_steps(refocus(context, score, budget, FRESH, BALANCED, 999), budget, BALANCED)
    positions = np.add.reduceat(final.costs, np.searchsorted(final.start, np.arange(families) * 1024))
    # One more block anywhere, and that family would be no denser than any other before its own last block.
    assert (mass / positions).max() <= (mass / (positions - 31))[positions > 32].min() + 1e-12


def test_balanced_gives_up_nothing_for_a_family_that_is_already_served_better(two_families):
    served = two_families.edited([Edit("expand", slot) for slot in [*range(10), 40]])
    scores = np.full(64, 0.0)
    scores[20], scores[40] = 0.25, -0.25
    assert plan(served, by_blocks(scores)(served), served.cost, FRESH, BALANCED).edits == ()
    greedy = plan(served, by_blocks(scores)(served), served.cost, FRESH, AllocatorConfig())
    assert greedy.edits == (Edit("collapse", 40), Edit("expand", 20))
    scores[20] = 1.0
    scores[40] = -1.0
    assert plan(served, by_blocks(scores)(served), served.cost, FRESH, BALANCED).edits == greedy.edits


def test_balanced_counts_a_family_whose_parent_is_not_complete_yet():
    context = WorkingContext.cover(32 * 5 + 7, 32).edited([Edit("expand", 1)])
    scores = np.array([0.9, 0.9, -0.5, -0.5, 0.5, 0.0])
    planned = plan(context, by_blocks(scores[:5])(context), context.cost + 31, FRESH, BALANCED)
    assert planned.edits == (Edit("expand", 0),)


def random_case(seed, num_tokens=9_000, budget=400):
    random = np.random.default_rng(seed)
    context = WorkingContext.cover(num_tokens, 32)
    return context, by_blocks(np.clip(random.normal(0.1, 0.4, num_tokens // 32), -1, 1)), budget


@given(st.integers(0, 2**32 - 1), st.integers(0, 9))
@settings(max_examples=20)
def test_stochastic_without_temperature_is_greedy(seed, number):
    context, score, budget = random_case(seed)
    cold = AllocatorConfig(strategy="stochastic", temperature=0.0, seed=number)
    left = refocus(context, score, budget, FRESH, cold, 99)
    right = refocus(context, score, budget, FRESH, AllocatorConfig(), 99)
    assert [step.edits for step in left] == [step.edits for step in right]


def test_stochastic_repeats_itself_by_seed_and_goes_on_where_a_saved_state_left_off():
    context, score, budget = random_case(3)
    whole = check_run(context, score, budget, STOCHASTIC, FRESH, 12)
    first = check_run(context, score, budget, STOCHASTIC, FRESH, 5)
    saved = AllocatorState.from_plain(first[-1][1].to_plain())
    assert whole[5:] == check_run(first[-1][0], score, budget, STOCHASTIC, saved, 7)
    assert whole[:5] == first
    assert whole != check_run(context, score, budget, replace(STOCHASTIC, seed=1), FRESH, 12)


def check_run(context, score, budget, config, state, steps):
    """(context, state) after each of some steps."""
    seen = []
    for _ in range(steps):
        planned = plan(context, score(context), budget, state, config)
        context, state = context.apply(planned.edits, budget), planned.state
        seen.append((context, state))
    return seen


def test_stochastic_chooses_in_proportion_and_never_below_the_threshold():
    context = WorkingContext.cover(32 * 6, 32)
    scores = np.array([0.9, 0.8, 0.7, 0.19, -0.9, 0.3])
    config = AllocatorConfig(strategy="stochastic", temperature=0.1, max_edits=1)
    picked = Counter(
        plan(context, scores, 999, AllocatorState(step=step), config).edits[0].slot for step in range(4000)
    )
    weights = np.exp(np.array([0.9, 0.8, 0.7, 0.3]) / 0.1)
    expected = dict(zip([0, 1, 2, 5], weights / weights.sum(), strict=True))
    assert set(picked) <= set(expected)
    for slot, share in expected.items():
        assert picked[slot] / 4000 == pytest.approx(share, abs=4 * np.sqrt(share / 4000))


@pytest.mark.parametrize("change", [{"temperature": -0.1}, {"temperature": float("nan")}, {"seed": -1}])
def test_a_stochastic_configuration_that_makes_no_sense_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        AllocatorConfig(**change)


@given(st.integers(0, 2**32 - 1), st.integers(100, 900), st.integers(1, 5))
@settings(max_examples=30)
def test_a_refocus_by_exact_arrives_at_the_best_context(seed, budget, max_edits):
    random = np.random.default_rng(seed)
    utilities = NodeUtilities(num_tokens=9_000, block_size=32, raw=random.normal(size=281))
    goal = best_context(utilities, budget, protect_recent_tokens=40)
    config = replace(EXACT, max_edits=max_edits, protect_recent_tokens=40)
    greedy = refocus(
        WorkingContext.cover(9_000, 32),
        by_blocks(np.tanh(utilities.raw)),
        budget,
        FRESH,
        AllocatorConfig(),
        99,
    )
    for start in (WorkingContext.cover(9_000, 32), greedy[-1].context):
        steps = refocus(start, lambda c: np.zeros(len(c)), budget, greedy[-1].state, config, 999, goal=goal)
        assert check_steps(steps, budget, config) == goal
    assert regret(goal, utilities, budget, protect_recent_tokens=40) == 0
    assert (
        value_of(greedy[-1].context, utilities) <= value_of(best_context(utilities, budget), utilities) + 1e-9
    )


def test_exact_needs_a_goal_and_the_others_ignore_it():
    context, score, budget = random_case(5)
    with pytest.raises(ConfigError, match="must be given a goal, got None; find one with best_context"):
        plan(context, score(context), budget, FRESH, EXACT)
    goal = WorkingContext.cover(9_000, 32)
    for strategy in ("greedy", "stochastic", "balanced"):
        config = AllocatorConfig(strategy=strategy)
        with_goal, without = (refocus(context, score, budget, FRESH, config, 9, goal=g) for g in (goal, None))
        assert [step.edits for step in with_goal] == [step.edits for step in without]


@pytest.mark.parametrize("strategy", ["stochastic", "balanced"])
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(100, 1500))
@settings(max_examples=10)
def test_a_refocus_ends_under_every_strategy_even_if_scores_are_drawn_anew(strategy, seed, budget):
    random = np.random.default_rng(seed)
    config = AllocatorConfig(strategy=strategy, seed=seed)
    start = WorkingContext.cover(9_000, 32)
    steps = refocus(start, lambda c: random.uniform(-1, 1, len(c)), budget, FRESH, config, 10_000)
    check_steps(steps, budget, config)
    assert sum(len(step.edits) for step in steps) <= 2 * (281 + 8)


@pytest.mark.parametrize("strategy", STRATEGIES.names())
@pytest.mark.parametrize("block", [0, 31, 500, 1055])
def test_every_strategy_walks_from_a_high_gist_down_to_the_block(strategy, block):
    num_tokens, budget = 32**3 + 32**2 + 7, 200
    scores = np.full(1056, -0.5)
    scores[block] = 0.9
    utilities = NodeUtilities(num_tokens=num_tokens, block_size=32, raw=scores)
    config = AllocatorConfig(strategy=strategy)
    goal = best_context(utilities, budget)
    steps = refocus(
        WorkingContext.cover(num_tokens, 32), by_blocks(scores), budget, FRESH, config, 32, goal=goal
    )
    assert raw_blocks(check_steps(steps, budget, config)) == [block]
    assert len(steps) == (4 if block < 1024 else 3)
