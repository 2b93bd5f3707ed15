"""Random operations on one context, shrunk when they fail: no strategy, rule, budget or growth breaks an invariant.

One machine draws what a session may do in any order: grow, fit, plan, refocus under every strategy, change the budget
and the rules, edit by hand, try what is illegal. After each operation the invariants are checked from their definition.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from megacontext.errors import BudgetError, IllegalEditError
from megacontext.focus import (
    NO_RULES,
    STRATEGIES,
    AllocatorConfig,
    AllocatorState,
    Edit,
    NodeUtilities,
    Rules,
    WorkingContext,
    best_context,
    fit,
    plan,
    refocus,
)

SEEDS = st.integers(0, 2**32 - 1)


def entries_checked(context):
    """The invariants from the definition, in plain numbers: what an entry covers follows from its node alone."""
    size, tokens = context.block_size, context.num_tokens
    width = np.array([size ** max(level, 1) for level in context.lod.tolist()], dtype=np.int64)
    start = context.index * width
    stop = np.minimum(start + width, tokens)
    assert np.array_equal(start, np.concatenate([[0], stop[:-1]])[: len(start)]), (
        "tile once, in order, aligned"
    )
    assert (stop[-1] if len(stop) else 0) == tokens, "all of history"
    assert ((context.lod == 0) | (stop - start == width)).all(), "gists stand for complete nodes"
    costs = np.where(context.lod == 0, stop - start, 1)
    assert context.cost == costs.sum() and np.array_equal(context.costs, costs)


def touched_blocks(spans, num_tokens, size):
    """Which finished blocks the spans touch, bool."""
    touched = np.zeros(num_tokens // size, dtype=bool)
    for start, stop in spans:
        touched[start // size : -(-stop // size)] = True
    return touched


class FocusMachine(RuleBasedStateMachine):
    """What a session may do to a context, in any order."""

    operations = 0

    @initialize(
        size=st.sampled_from([2, 3, 4, 32, 32]),
        budget=st.one_of(st.integers(33, 300), st.integers(33, 8192)),
        blocks=st.integers(0, 300),
        rest=st.integers(0, 31),
    )
    def begin(self, size, budget, blocks, rest):
        self.size, self.budget, self.rules = size, budget, NO_RULES
        self.state = AllocatorState()
        tokens = blocks * size + rest % size
        self.context = WorkingContext.cover(tokens, size)
        if self.context.cost > budget:
            self.context = WorkingContext.raw(budget, size)

    def count(self):
        type(self).operations += 1

    def fits(self, num_tokens, budget, rules):
        """The fitted context if there is one, else None; then no context within the budget keeps the rules."""
        try:
            return fit(self.context.extend(num_tokens), budget, protect_recent_tokens=self.size, rules=rules)
        except BudgetError:
            raw = np.zeros(num_tokens // self.size)
            with pytest.raises(BudgetError):
                best_context(
                    NodeUtilities(num_tokens=num_tokens, block_size=self.size, raw=raw), budget, rules
                )
            return None

    def adopt(self, context, budget, rules):
        if context is not None:
            self.context, self.budget, self.rules = context, budget, rules

    @rule(tokens=st.one_of(st.integers(0, 70), st.integers(0, 3000)))
    def grow(self, tokens):
        self.count()
        self.adopt(
            self.fits(self.context.num_tokens + tokens, self.budget, self.rules), self.budget, self.rules
        )

    @rule(budget=st.one_of(st.integers(33, 300), st.integers(33, 8192)))
    def change_the_budget(self, budget):
        self.count()
        self.adopt(self.fits(self.context.num_tokens, budget, self.rules), budget, self.rules)

    @rule(places=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 80), st.booleans()), max_size=4))
    def change_the_rules(self, places):
        self.count()
        pinned, excluded = [], []
        for place, length, pin in places:
            span = (int(place * self.context.num_tokens), int(place * self.context.num_tokens) + length)
            if all(max(span[0], a) >= min(span[1], b) for a, b in (excluded if pin else pinned)):
                (pinned if pin else excluded).append(span)
        rules = Rules(pinned=tuple(pinned), excluded=tuple(excluded))
        self.adopt(self.fits(self.context.num_tokens, self.budget, rules), self.budget, rules)

    def score(self, seed, kind):
        def scores(context):
            random = np.random.default_rng((seed, len(context)))
            if kind == "uniform":
                return random.uniform(-1, 1, len(context))
            if kind == "ties":
                return random.integers(-1, 2, len(context))
            if kind == "peak":
                place = int(random.uniform() * max(context.num_tokens, 1))
                inside = (context.start <= place) & (place < context.stop)
                return np.where(inside, 0.9, -0.6)
            return np.full(len(context), float(kind))

        return scores

    kinds = st.sampled_from(["uniform", "ties", "peak", "1", "-1", "0"])
    configs = st.builds(
        AllocatorConfig,
        strategy=st.sampled_from(STRATEGIES.names()),
        threshold=st.sampled_from([0.0, 0.2, 0.6]),
        max_edits=st.integers(1, 9),
        cooldown_steps=st.integers(0, 3),
        protect_recent_tokens=st.integers(0, 100),
        seed=st.integers(0, 3),
    )

    def goal(self, seed, config):
        if config.strategy != "exact":
            return None
        raw = np.random.default_rng(seed).normal(size=self.context.num_tokens // self.size)
        utilities = NodeUtilities(num_tokens=self.context.num_tokens, block_size=self.size, raw=raw)
        return best_context(utilities, self.budget, self.rules)

    def check_step(self, context, edits, after, config):
        assert len(edits) <= config.max_edits
        assert after.cost <= self.budget
        pinned = touched_blocks(self.rules.pinned, context.num_tokens, self.size)
        closed = touched_blocks(self.rules.excluded, context.num_tokens, self.size) & ~pinned
        raw, raw_after = (one.is_raw(np.arange(len(closed))) for one in (context, after))
        assert not (closed & raw_after & ~raw).any(), "what is excluded was opened"
        for edit in edits:
            blocks = slice(context.start[edit.slot] // self.size, context.stop[edit.slot] // self.size)
            assert edit.kind == "collapse" or not closed[blocks].all()
        recent = np.arange(1, len(closed) + 1) * self.size > context.num_tokens - config.protect_recent_tokens
        assert not (recent & raw & ~raw_after).any(), "what is protected was folded"

    @rule(seed=SEEDS, kind=kinds, config=configs)
    def plan_one_step(self, seed, kind, config):
        self.count()
        scores = self.score(seed, kind)(self.context)
        goal = self.goal(seed, config)
        planned = plan(self.context, scores, self.budget, self.state, config, self.rules, goal=goal)
        again = plan(self.context, scores, self.budget, self.state, config, self.rules, goal=goal)
        assert planned == again, "a plan is a pure function"
        after = self.context.apply(planned.edits, self.budget)
        self.check_step(self.context, planned.edits, after, config)
        self.context, self.state = after, planned.state

    @rule(seed=SEEDS, kind=kinds, config=configs, max_steps=st.integers(0, 8))
    def refocus_for_a_question(self, seed, kind, config, max_steps):
        self.count()
        steps = refocus(
            self.context, self.score(seed, kind), self.budget, self.state, config, max_steps, self.rules,
            goal=self.goal(seed, config),
        )  # fmt: skip
        assert steps[0].context == self.context, "rules are kept already, so nothing is fitted first"
        assert len(steps) <= max_steps + 1
        for step, following in pairwise(steps):
            self.check_step(step.context, step.edits, following.context, config)
            entries_checked(following.context)
        for step in steps[-1:]:
            assert step.reasons.shape == (len(step.context),)
        self.context, self.state = steps[-1].context, steps[-1].state

    @rule(place=st.floats(0, 1))
    def expand_and_collapse_again(self, place):
        self.count()
        gists = np.flatnonzero(self.context.lod > 0)
        if len(gists):
            slot = int(gists[int(place * (len(gists) - 1))])
            back = self.context.edited([Edit("expand", slot)]).edited([Edit("collapse", slot)])
            assert back == self.context
            assert back.lod.tobytes() == self.context.lod.tobytes()
            assert back.index.tobytes() == self.context.index.tobytes()

    @rule(place=st.floats(0, 1), kind=st.sampled_from(["expand", "collapse"]))
    def try_an_edit(self, place, kind):
        self.count()
        if len(self.context) == 0:
            return
        slot = int(place * (len(self.context) - 1))
        legal = slot in self.context.groups() if kind == "collapse" else self.context.lod[slot] > 0
        fits = self.context.cost + (self.size - 1 if kind == "expand" else 0) <= self.budget
        before = hash(self.context)
        if not legal:
            with pytest.raises(IllegalEditError):
                self.context.apply([Edit(kind, slot)], self.budget)
        elif not fits:
            with pytest.raises(BudgetError):
                self.context.apply([Edit(kind, slot)], self.budget)
        else:
            entries_checked(self.context.apply([Edit(kind, slot)], self.budget))
        assert hash(self.context) == before

    @invariant()
    def nothing_is_broken(self):
        if not hasattr(self, "context"):
            return
        entries_checked(self.context)
        assert self.context.cost <= self.budget
        pinned = np.flatnonzero(touched_blocks(self.rules.pinned, self.context.num_tokens, self.size))
        assert self.context.is_raw(pinned).all(), "what is pinned is shown as tokens"


def run(operations, steps):
    """Do at least so many operations, in examples of so many steps."""
    machine = type("CountedFocus", (FocusMachine,), {"operations": 0})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    sizes = settings(max_examples=50, stateful_step_count=steps, suppress_health_check=checks)
    while machine.operations < operations:
        run_state_machine_as_test(machine, settings=sizes)


@pytest.mark.slow
def test_twenty_thousand_random_operations_break_nothing():
    run(20_000, steps=100)


@pytest.mark.long
def test_a_quarter_of_a_million_random_operations_break_nothing():
    run(250_000, steps=200)
