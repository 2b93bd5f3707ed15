"""From scores to edits: planning one step, and refocusing until nothing is left to do.

A score in [-1, 1] per entry says "more detail here" or "less". What scores above +threshold is opened, and if there is
no room, what scores below -threshold is closed for it. The gap between the two and a cooldown (a node that was just
opened is not closed, one that was just closed is not opened) are the hysteresis. Going deeper is never held up by the
cooldown: the children of a node that was just opened may be opened at once, so one refocus walks from a high gist to a
block, rescoring as it goes.

What may be done is found by shared code (`options`), and what the strategy chose is checked against it; so no strategy
can break an invariant or a rule. Everything here is a pure function of context, scores, budget, rules and state.

Deliberately ignorant of where scores come from: LensNet, BM25 and a random number look alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from megacontext.errors import BudgetError, IllegalEditError
from megacontext.focus.context import Edit, WorkingContext, check_budget
from megacontext.focus.fitting import fit
from megacontext.focus.options import (
    STRATEGIES,
    AllocatorConfig,
    Options,
    Strategy,
    check_choice,
    checked_scores,
    find_options,
    stand,
)
from megacontext.focus.reasons import reasons
from megacontext.focus.rules import NO_RULES, Rules
from megacontext.focus.state import AllocatorState, edited_node

__all__ = [
    "STRATEGIES",
    "AllocatorConfig",
    "AllocatorState",
    "FocusStep",
    "Options",
    "Plan",
    "ScoreFunction",
    "Strategy",
    "checked_scores",
    "fit",
    "plan",
    "refocus",
]

ScoreFunction = Callable[[WorkingContext], np.ndarray]
"""Working context of W entries in, (W,) in [-1, 1] out."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The edits of one step, and the state for the next."""

    edits: tuple[Edit, ...]
    refused: int
    """Entries that scored above the threshold and were not expanded in this step, for whatever reason."""
    waiting: bool
    """There are no edits, but there would be if a cooldown were over."""
    state: AllocatorState


@dataclass(frozen=True, kw_only=True, eq=False)
class FocusStep:
    """One round of `refocus`: what was seen, what was decided. `context` is the one before the edits."""

    context: WorkingContext
    scores: np.ndarray
    """float64 (W,), one per entry of `context`."""
    edits: tuple[Edit, ...]
    refused: int
    """Entries that scored above the threshold and were not expanded in this step; `reasons` says why."""
    latency_ms: float
    """Scoring, planning and applying; of the first step, fitting what is pinned too."""
    state: AllocatorState
    """After this step."""
    planned_from: AllocatorState
    """The state that the edits were planned from: cooldowns that had run out by waiting are out in it."""
    budget: int
    config: AllocatorConfig
    rules: Rules
    stopped: bool
    """There were edits to make, but the refocus had no step left for them."""

    @cached_property
    def reasons(self) -> np.ndarray:
        """A `Reason` per entry, int8 (W,): what became of it and why. Computed when it is first asked for."""
        standing = stand(
            self.context,
            self.scores,
            self.planned_from,
            self.config,
            self.rules,
            cooldown_steps=self.config.cooldown_steps,
        )
        spent = sum(1 if edit.kind == "expand" else -1 for edit in self.edits)
        room = (self.budget - self.context.cost) // (self.context.block_size - 1) - spent
        return reasons(standing, self.edits, room, self.config, stopped=self.stopped)


def plan(
    context: WorkingContext,
    scores: np.ndarray,
    budget: int,
    state: AllocatorState,
    config: AllocatorConfig,
    rules: Rules = NO_RULES,
    *,
    goal: WorkingContext | None = None,
) -> Plan:
    """Edits for one step, at most `config.max_edits`, legal together and within the budget and the rules.

    `scores` (W,) in [-1, 1]; `goal` is for strategy "exact", the others ignore it. Raises ShapeError or ConfigError for
    scores that are not, BudgetError if the context is over its budget already (a history that grew: see `fit`) or
    the budget is below one block, IllegalEditError if the context shows a pinned span as a gist (see `fit` again) or
    the strategy chose what it may not.
    """
    check_budget(budget, context.block_size)
    scores = checked_scores(context, scores)
    if context.cost > budget:
        raise BudgetError(
            f"planning needs a context within its budget of {budget} positions, this one costs "
            f"{context.cost}; fit it first or raise focus.budget"
        )
    if len(folded := rules.folded_pins(context)):
        raise IllegalEditError(
            f"planning needs a context that shows what is pinned as tokens, slot {folded[0]} is a gist of "
            f"LOD{context.lod[folded[0]]}; fit it to these rules first"
        )

    def choose(cooldown_steps: int) -> list[Edit]:
        standing = stand(context, scores, state, config, rules, cooldown_steps=cooldown_steps)
        options = find_options(standing, budget, state, goal)
        edits = STRATEGIES.get(config.strategy)(options, config)
        check_choice(edits, options, config)
        return edits

    edits = choose(config.cooldown_steps)
    rests = bool(state.expanded_at or state.collapsed_at)
    return Plan(
        edits=tuple(edits),
        refused=_refused(context, scores, edits, config),
        waiting=not edits and rests and bool(choose(0)),
        state=state.after(context, edits, config.cooldown_steps),
    )


def refocus(
    context: WorkingContext,
    score_fn: ScoreFunction,
    budget: int,
    state: AllocatorState,
    config: AllocatorConfig,
    max_steps: int,
    rules: Rules = NO_RULES,
    *,
    goal: WorkingContext | None = None,
    told: Callable[[FocusStep], None] = lambda step: None,
) -> list[FocusStep]:
    """Score, plan, apply, until nothing is left to do or `max_steps` steps have made edits.

    What is pinned but folded is opened first, by `fit` and outside the count of edits and steps, so that the first
    step's context may be another than the one given. The last step never has edits: its context is the result, its
    scores say what remained. Where only a cooldown stands in the way, the step passes and is planned again with the
    same scores, since nothing has changed. Ends for any scores: within one call a node is expanded at most once and
    collapsed at most once. Raises what `plan` raises, and BudgetError if the budget does not hold what is pinned.
    `told` hears of each step as it is made; what it raises ends the refocus.
    """
    state = replace(state, closed=frozenset())
    began = time.perf_counter()
    if len(rules.folded_pins(context)):
        context = fit(context, budget, score_fn(context), config.protect_recent_tokens, rules)
    steps: list[FocusStep] = []
    while True:
        scores = checked_scores(context, score_fn(context))
        planned_from = state
        planned = plan(context, scores, budget, state, config, rules, goal=goal)
        while planned.waiting:
            planned_from = planned.state
            planned = plan(context, scores, budget, planned_from, config, rules, goal=goal)
        stopped = len(steps) >= max_steps
        edits = () if stopped else planned.edits
        if edits:
            after = context.apply(edits, budget)
            closed = {edited_node(context, edit) for edit in edits if edit.kind == "collapse"}
            state = replace(planned.state, closed=state.closed | closed)
        else:
            # Nothing was done, so nothing is remembered of it.
            state = replace(state, step=state.step + 1, closed=frozenset())
        steps.append(
            FocusStep(
                context=context,
                scores=scores,
                edits=edits,
                refused=_refused(context, scores, edits, config),
                latency_ms=(time.perf_counter() - began) * 1000,
                state=state,
                planned_from=planned_from,
                budget=budget,
                config=config,
                rules=rules,
                stopped=stopped and bool(planned.edits),
            )
        )
        told(steps[-1])
        if not edits:
            return steps
        context, began = after, time.perf_counter()


def _refused(
    context: WorkingContext, scores: np.ndarray, edits: Sequence[Edit], config: AllocatorConfig
) -> int:
    wanted = np.count_nonzero((context.lod > 0) & (scores > config.threshold))
    return int(wanted) - sum(
        edit.kind == "expand" and bool(scores[edit.slot] > config.threshold) for edit in edits
    )
