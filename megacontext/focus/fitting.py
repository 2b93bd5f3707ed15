"""Bringing a context to its budget and its rules when they, or the history, have changed: no matter of opinion.

A history that grew has raw text at its end and costs more; a span that was pinned just now may be folded. `fit` opens
what is pinned and folds the rest until the budget holds it, whatever the number of edits. What a question wants opened
is refocus's business.

Deliberately ignorant of thresholds, cooldowns and strategies.
"""

from __future__ import annotations

import math

import numpy as np

from megacontext.errors import BudgetError
from megacontext.focus.context import WorkingContext, check_budget
from megacontext.focus.groups import Groups
from megacontext.focus.options import checked_scores
from megacontext.focus.rules import NO_RULES, Rules


def fit(
    context: WorkingContext,
    budget: int,
    scores: np.ndarray | None = None,
    protect_recent_tokens: int = 0,
    rules: Rules = NO_RULES,
) -> WorkingContext:
    """The context with its pinned spans as tokens, then collapsed until it is within its budget.

    What is excluded goes first, then the lowest-scored groups, the oldest where scores tie or are not given; what
    touches the last `protect_recent_tokens` goes when nothing else is left, what is pinned never. Raises BudgetError if
    the pinned spans and the coarsest cover of the rest cost too much.
    """
    check_budget(budget, context.block_size)
    worth = np.zeros(len(context)) if scores is None else checked_scores(context, scores)
    context, worth = _with_pins_open(context, worth, budget, rules)
    while (excess := context.cost - budget) > 0:
        groups = Groups(context)
        free = np.flatnonzero(~rules.pins(groups.start, groups.stop, context.block_size))
        if len(free) == 0:
            raise BudgetError(_too_much(context, budget, rules))
        recent = groups.stop[free] > context.num_tokens - protect_recent_tokens
        candidates = free if recent.all() else free[~recent]
        excluded = rules.excludes(groups.start, groups.stop, context.block_size)[candidates]
        order = np.lexsort((candidates, groups.mean(worth)[candidates], ~excluded))
        chosen = groups.first[candidates[order[: math.ceil(excess / (context.block_size - 1))]]]
        smaller = context.edited_at(collapse=chosen)
        worth = np.maximum.reduceat(worth, np.searchsorted(context.start, smaller.start))
        context = smaller
    return context


def _with_pins_open(
    context: WorkingContext, worth: np.ndarray, budget: int, rules: Rules
) -> tuple[WorkingContext, np.ndarray]:
    """All pinned blocks as tokens, at whatever cost below that of the pins themselves; entries inherit their worth."""
    pinned = rules.pinned_tokens(context.num_tokens, context.block_size)
    if pinned > budget:
        raise BudgetError(
            f"a budget must hold what is pinned, that is {pinned} positions in whole blocks, got {budget}; "
            "pin less or raise focus.budget"
        )
    while len(folded := rules.folded_pins(context)):
        opened = context.edited_at(expand=folded)
        worth = worth[context.slot_of(opened.start)]
        context = opened
    return context, worth


def _too_much(context: WorkingContext, budget: int, rules: Rules) -> str:
    if rules.pinned:
        return (
            f"a budget must hold what is pinned with the coarsest cover of the rest, {context.num_tokens} tokens "
            f"need {context.cost} positions, got {budget}; pin less or raise focus.budget"
        )
    return (
        f"a budget must hold the coarsest cover of its history, {context.num_tokens} tokens need "
        f"{context.cost} positions, got {budget}; raise focus.budget"
    )
