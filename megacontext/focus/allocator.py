"""From scores to legal edits: what to unfold, what to fold away for it, and when to leave things alone.

A score in [-1, 1] per entry says "more detail here" or "less". Every expansion costs K - 1 positions and
every collapse refunds K - 1, so a full budget trades one for one: what scores above +threshold is opened, and
if there is no room, what scores below -threshold is closed for it. The gap between the two and a cooldown (a
node that was just opened is not closed, one that was just closed is not opened) are the hysteresis. Going
deeper is never held up by the cooldown: the children of a node that was just opened may be opened at once, so
one refocus walks from a high gist to a block.

A strategy picks from options that shared code has found legal, affordable and rested; no strategy can break
an invariant. Everything here is a pure function of context, scores, budget and state.

Deliberately ignorant of where scores come from: LensNet, BM25 and a random number look alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from megacontext.errors import BudgetError, ConfigError, ShapeError
from megacontext.focus.context import Edit, WorkingContext, check_budget
from megacontext.registry import Registry
from megacontext.spans import Node

SCORE_SLACK = 1e-6
"""How far beyond [-1, 1] a score may lie: a float32 cosine of a vector with itself does."""


@dataclass(frozen=True, kw_only=True)
class AllocatorConfig:
    """How eager the allocator is. The defaults live here and nowhere else."""

    strategy: str = "greedy"
    """Which of STRATEGIES picks the edits."""
    threshold: float = 0.20
    """An entry must score above this to be expanded, a group below its negative to make room."""
    max_edits: int = 4
    """Edits of one step, expansions and collapses together."""
    cooldown_steps: int = 2
    """For how many steps after an edit its reversal is held back."""
    protect_recent_tokens: int = 32
    """What touches the last so many tokens is never collapsed to make room."""

    def __post_init__(self) -> None:
        STRATEGIES.get(self.strategy)
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold must lie in [0, 1), got {self.threshold}; 0.2 is the default")
        for name, least in (("max_edits", 1), ("cooldown_steps", 0), ("protect_recent_tokens", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class AllocatorState:
    """What the allocator remembers between steps. A new session, or an unrelated question, starts fresh."""

    step: int = 0
    """Steps planned so far."""
    expanded_at: Mapping[Node, int] = field(default_factory=dict)
    """Step at which a node was expanded, as long as its cooldown lasts."""
    collapsed_at: Mapping[Node, int] = field(default_factory=dict)
    """Step at which a node took the place of its children, as long as its cooldown lasts."""
    closed: frozenset[Node] = frozenset()
    """Nodes that `refocus` has closed and will not open again: why it always comes to an end."""


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
class Options:
    """What a strategy may choose from: all legal, rested, and no two touching the same entry."""

    expand: np.ndarray
    """Slots that score above the threshold, int64: highest first, later ones first where scores tie."""
    depth: np.ndarray
    """Level of each of them, int64 like `expand`: how many expansions it takes to come down to its tokens."""
    collapse: np.ndarray
    """First slots of groups that score below -threshold, int64: lowest mean first, then later ones."""
    room: int
    """Expansions that fit without any collapse."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FocusStep:
    """One round of `refocus`: what was seen, what was decided. `context` is the one before the edits."""

    context: WorkingContext
    scores: np.ndarray
    """float64 (W,), one per entry of `context`."""
    edits: tuple[Edit, ...]
    refused: int
    latency_ms: float
    """Scoring, planning and applying."""
    state: AllocatorState
    """After this step."""


Strategy = Callable[[Options, AllocatorConfig], list[Edit]]
ScoreFunction = Callable[[WorkingContext], np.ndarray]

STRATEGIES: Registry[Strategy] = Registry("allocator strategy")


@STRATEGIES.register("greedy")
def greedy(options: Options, config: AllocatorConfig) -> list[Edit]:
    """Expand the highest scores; where there is no room, collapse the lowest group first.

    An expansion is worth little until tokens are reached, so each is charged its whole way down: several high gists
    are opened side by side only if all of them can be followed to a block. Otherwise room would go to breadth, and
    the best path end above its tokens. The best candidate is held to its next expansion alone.
    If the step ends between a collapse and the expansion that it was for, the next step has the room.
    """
    edits: list[Edit] = []
    room = options.room
    victims = iter(options.collapse)
    for rank, (slot, depth) in enumerate(zip(options.expand.tolist(), options.depth.tolist(), strict=True)):
        if len(edits) == config.max_edits:
            break
        if rank and room > 0 and depth > room:
            continue
        if room > 0:
            room -= depth
        else:
            victim = next(victims, None)
            if victim is None:
                break
            edits.append(Edit("collapse", int(victim)))
            if len(edits) == config.max_edits:
                break
        edits.append(Edit("expand", slot))
    return edits


def plan(
    context: WorkingContext,
    scores: np.ndarray,
    budget: int,
    state: AllocatorState,
    config: AllocatorConfig,
) -> Plan:
    """Edits for one step, at most `config.max_edits`, legal together and within the budget.

    `scores` (W,) in [-1, 1]. Raises ShapeError or ConfigError for scores that are not, BudgetError if the
    context is over its budget already (a history that grew: see `fit`) or the budget is below one block.
    """
    check_budget(budget, context.block_size)
    scores = checked_scores(context, scores)
    if context.cost > budget:
        raise BudgetError(
            f"planning needs a context within its budget of {budget} positions, this one costs "
            f"{context.cost}; fit it first or raise focus.budget"
        )
    choose = STRATEGIES.get(config.strategy)
    edits = choose(_options(context, scores, budget, state, config, config.cooldown_steps), config)
    waiting = not edits and bool(choose(_options(context, scores, budget, state, config, 0), config))
    return Plan(
        edits=tuple(edits),
        refused=_refused(context, scores, edits, config),
        waiting=waiting,
        state=_after(context, edits, state, config),
    )


def refocus(
    context: WorkingContext,
    score_fn: ScoreFunction,
    budget: int,
    state: AllocatorState,
    config: AllocatorConfig,
    max_steps: int,
) -> list[FocusStep]:
    """Score, plan, apply, until nothing is left to do or `max_steps` steps have made edits.

    The last step never has edits: its context is the result, its scores say what remained. Where only a
    cooldown stands in the way, the step passes and is planned again with the same scores, since nothing has
    changed. Ends for any scores: within one call a node is expanded at most once and collapsed at most once.
    Raises what `plan` raises.
    """
    state = replace(state, closed=frozenset())
    steps: list[FocusStep] = []
    while True:
        began = time.perf_counter()
        scores = checked_scores(context, score_fn(context))
        planned = plan(context, scores, budget, state, config)
        while planned.waiting:
            planned = plan(context, scores, budget, planned.state, config)
        edits = planned.edits if len(steps) < max_steps else ()
        if edits:
            after = context.apply(edits, budget)
            closed = {_group_parent(context, edit.slot) for edit in edits if edit.kind == "collapse"}
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
            )
        )
        if not edits:
            return steps
        context = after


def fit(
    context: WorkingContext,
    budget: int,
    scores: np.ndarray | None = None,
    protect_recent_tokens: int = 0,
) -> WorkingContext:
    """The context collapsed until it is within its budget: for a history that grew, not for a change of mind.

    The lowest-scored groups go first, the oldest where scores tie or are not given; what touches the last
    `protect_recent_tokens` goes when nothing else is left. Raises BudgetError if the cover costs too much.
    """
    check_budget(budget, context.block_size)
    worth = np.zeros(len(context)) if scores is None else checked_scores(context, scores)
    while (excess := context.cost - budget) > 0:
        groups = context.groups()
        if len(groups) == 0:
            raise BudgetError(
                f"a budget must hold the coarsest cover of its history, {context.num_tokens} tokens need "
                f"{context.cost} positions, got {budget}; raise focus.budget"
            )
        recent = _group_stop(context, groups) > context.num_tokens - protect_recent_tokens
        candidates = groups if recent.all() else groups[~recent]
        order = np.lexsort((candidates, _group_mean_and_max(context, candidates, worth)[0]))
        chosen = candidates[order[: math.ceil(excess / (context.block_size - 1))]]
        smaller = context.edited([Edit("collapse", int(slot)) for slot in chosen])
        worth = np.maximum.reduceat(worth, np.searchsorted(context.start, smaller.start))
        context = smaller
    return context


def checked_scores(context: WorkingContext, scores: np.ndarray) -> np.ndarray:
    """Scores as float64 (W,). Raises ShapeError for other shapes, ConfigError for NaN or beyond [-1, 1]."""
    row = np.asarray(scores)
    if row.shape != (len(context),) or (row.dtype.kind not in "fiu" and row.size):
        raise ShapeError(
            f"a scorer must give one number per entry, ({len(context)},), got {row.dtype} "
            f"{row.shape}; check the scorer"
        )
    row = row.astype(np.float64)
    wrong = ~(np.abs(row) <= 1 + SCORE_SLACK)  # NaN compares false
    if wrong.any():
        slot = int(np.flatnonzero(wrong)[0])
        raise ConfigError(
            f"scores must lie in [-1, 1], {np.count_nonzero(wrong)} of {len(row)} do not, the first is "
            f"{row[slot]} in slot {slot}; calibrate the scorer"
        )
    return row


def _options(
    context: WorkingContext,
    scores: np.ndarray,
    budget: int,
    state: AllocatorState,
    config: AllocatorConfig,
    cooldown_steps: int,
) -> Options:
    """All that may be done in this step, best first."""
    wanted = np.flatnonzero((context.lod > 0) & (scores > config.threshold))
    resting = _recent(state.collapsed_at, state.step, cooldown_steps) | state.closed
    wanted = wanted[~_among(context.lod[wanted], context.index[wanted], resting)]
    expand = wanted[np.lexsort((-wanted, -scores[wanted]))]

    groups = context.groups()
    mean, highest = _group_mean_and_max(context, groups, scores)
    # A group with a member to be expanded is no victim, however low the others.
    low = (mean < -config.threshold) & (highest <= config.threshold)
    low &= _group_stop(context, groups) <= context.num_tokens - config.protect_recent_tokens
    lod, index = _group_parents(context, groups)
    low &= ~_among(lod, index, _recent(state.expanded_at, state.step, cooldown_steps))
    collapse = groups[low][np.lexsort((-groups[low], mean[low]))]
    room = (budget - context.cost) // (context.block_size - 1)
    return Options(expand=expand, depth=context.lod[expand], collapse=collapse, room=room)


def _refused(
    context: WorkingContext, scores: np.ndarray, edits: Sequence[Edit], config: AllocatorConfig
) -> int:
    wanted = np.count_nonzero((context.lod > 0) & (scores > config.threshold))
    return int(wanted) - sum(edit.kind == "expand" for edit in edits)


def _after(
    context: WorkingContext, edits: list[Edit], state: AllocatorState, config: AllocatorConfig
) -> AllocatorState:
    """The state of the next step: edits noted, what has rested forgotten."""
    step = state.step + 1
    expanded = {node: at for node, at in state.expanded_at.items() if step - at <= config.cooldown_steps}
    collapsed = {node: at for node, at in state.collapsed_at.items() if step - at <= config.cooldown_steps}
    for edit in edits:
        if edit.kind == "expand":
            expanded[Node(int(context.lod[edit.slot]), int(context.index[edit.slot]))] = state.step
        else:
            collapsed[_group_parent(context, edit.slot)] = state.step
    return replace(state, step=step, expanded_at=expanded, collapsed_at=collapsed)


def _recent(times: Mapping[Node, int], step: int, cooldown_steps: int) -> frozenset[Node]:
    return frozenset(node for node, at in times.items() if step - at <= cooldown_steps)


def _among(lod: np.ndarray, index: np.ndarray, nodes: frozenset[Node]) -> np.ndarray:
    """Whether each (lod, index) is one of `nodes`, bool."""
    # Levels stay far below 64, so that a node is one integer.
    return np.isin(index * 64 + lod, np.array([node.index * 64 + node.lod for node in nodes], dtype=np.int64))


def _group_mean_and_max(
    context: WorkingContext, groups: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and highest score of each group, float64 like `groups`."""
    mean, highest = scores[groups], scores[groups]  # copies; right for a raw block, which is alone
    gists = context.lod[groups] > 0
    members = scores[groups[gists][:, None] + np.arange(context.block_size)]  # (G, K)
    mean[gists], highest[gists] = members.mean(axis=1), members.max(axis=1, initial=-1.0)
    return mean, highest


def _group_stop(context: WorkingContext, groups: np.ndarray) -> np.ndarray:
    """One past the last token of each group, int64 like `groups`."""
    return context.stop[np.where(context.lod[groups] > 0, groups + context.block_size - 1, groups)]


def _group_parents(context: WorkingContext, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level and index of the node that each group collapses into, int64 like `groups`."""
    lod, index = context.lod[groups], context.index[groups]
    return lod + 1, np.where(lod > 0, index // context.block_size, index)


def _group_parent(context: WorkingContext, slot: int) -> Node:
    lod, index = _group_parents(context, np.array([slot]))
    return Node(int(lod[0]), int(index[0]))
