"""What may be done to a context in one step: legality, rules, cooldown and thresholds, the same for every strategy.

`stand` looks at each entry and each group once and notes all that speaks for and against an edit; `find_options` makes
of it what a strategy may choose from; `check_choice` refuses a strategy that took something else. Everything is a row
over entries or groups; nothing here loops over them.

Deliberately ignorant of how to choose, and of where scores come from: LensNet, BM25 and a random number look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError, IllegalEditError, ShapeError
from megacontext.focus.context import Edit, WorkingContext
from megacontext.focus.groups import Groups
from megacontext.focus.rules import Rules
from megacontext.focus.state import AllocatorState, among
from megacontext.registry import Registry

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
    temperature: float = 0.10
    """Of "stochastic": the scale, in scores, of the noise that it chooses by; 0 is greedy."""
    seed: int = 0
    """Of "stochastic": its choices follow from this and the step."""

    def __post_init__(self) -> None:
        STRATEGIES.get(self.strategy)
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold must lie in [0, 1), got {self.threshold}; 0.2 is the default")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"temperature must be finite and at least 0, got {self.temperature}; 0.1 is the default"
            )
        leasts = (("max_edits", 1), ("cooldown_steps", 0), ("protect_recent_tokens", 0), ("seed", 0))
        for name, least in leasts:
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """All that speaks for and against an edit, W entries and G groups. Nothing is weighed yet."""

    context: WorkingContext
    scores: np.ndarray
    """float64 (W,)."""
    wanted: np.ndarray
    """Gists that score above the threshold, bool (W,)."""
    excluded: np.ndarray
    """Entries that the rules keep from being expanded, bool (W,)."""
    resting: np.ndarray
    """Gists that took their children's place too short a time ago, or in this refocus, bool (W,)."""
    groups: Groups
    mean: np.ndarray
    """Mean score of each group, float64 (G,)."""
    low: np.ndarray
    """Groups whose mean is below -threshold, bool (G,)."""
    holds_wanted: np.ndarray
    """Groups with a member that scores above the threshold, bool (G,): no victims, however low the others."""
    pinned: np.ndarray
    """Groups that touch a pinned span, bool (G,)."""
    recent: np.ndarray
    """Groups that touch the protected last tokens, bool (G,)."""
    just_opened: np.ndarray
    """Groups whose parent was opened too short a time ago, bool (G,)."""

    @property
    def may_expand(self) -> np.ndarray:
        """Gists that rules and cooldown let go, bool (W,); scores aside."""
        return (self.context.lod > 0) & ~self.excluded & ~self.resting

    @property
    def may_collapse(self) -> np.ndarray:
        """Groups that rules, protection and cooldown let go, bool (G,); scores aside."""
        return ~(self.pinned | self.recent | self.just_opened)


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What a strategy may choose from: all legal, rested, and within the rules."""

    context: WorkingContext
    scores: np.ndarray
    """float64 (W,)."""
    expand: np.ndarray
    """Slots that score above the threshold, int64: highest first, later ones first where scores tie."""
    depth: np.ndarray
    """Level of each of them, int64 like `expand`: how many expansions it takes to come down to its tokens."""
    collapse: np.ndarray
    """First slots of groups that score below -threshold, int64: lowest mean first, then later ones.
    None of them holds a slot of `expand`."""
    collapse_scores: np.ndarray
    """Mean score of each of them, float64."""
    may_expand: np.ndarray
    """All entries that may be expanded whatever they score, bool (W,)."""
    may_collapse: np.ndarray
    """First slots of all groups that may be collapsed whatever they score, bool (W,)."""
    room: int
    """Expansions that fit without any collapse."""
    budget: int
    step: int
    """Steps planned before this one; random choices are drawn from it."""
    goal: WorkingContext | None
    """Where "exact" is to go."""


Strategy = Callable[[Options, AllocatorConfig], list[Edit]]
STRATEGIES: Registry[Strategy] = Registry("allocator strategy")
"""Filled by megacontext.focus.strategies, and by whoever brings another."""


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


def stand(
    context: WorkingContext,
    scores: np.ndarray,
    state: AllocatorState,
    config: AllocatorConfig,
    rules: Rules,
    *,
    cooldown_steps: int,
) -> Standing:
    """What speaks for and against each edit, for `scores` that `checked_scores` has passed."""
    size, groups = context.block_size, Groups(context)
    gist = context.lod > 0
    mean = groups.mean(scores)
    if rules.excluded:
        excluded = gist & rules.excludes(context.start, context.stop, size)
    else:
        excluded = np.zeros(len(context), dtype=bool)
    return Standing(
        context=context,
        scores=scores,
        wanted=gist & (scores > config.threshold),
        excluded=excluded,
        resting=among(context.lod, context.index, state.resting_collapsed(cooldown_steps)),
        groups=groups,
        mean=mean,
        low=mean < -config.threshold,
        holds_wanted=groups.highest(scores) > config.threshold,
        pinned=(
            rules.pins(groups.start, groups.stop, size)
            if rules.pinned
            else np.zeros(len(groups.first), dtype=bool)
        ),
        recent=groups.stop > context.num_tokens - config.protect_recent_tokens,
        just_opened=among(groups.parent_lod, groups.parent_index, state.resting_expanded(cooldown_steps)),
    )


def find_options(
    standing: Standing, budget: int, state: AllocatorState, goal: WorkingContext | None
) -> Options:
    """All that may be done in this step, best first. The context is within its `budget`."""
    context, scores, groups = standing.context, standing.scores, standing.groups
    may_expand, may_collapse = standing.may_expand, standing.may_collapse
    wanted = np.flatnonzero(standing.wanted & may_expand)
    expand = wanted[np.lexsort((-wanted, -scores[wanted]))]
    victims = np.flatnonzero(standing.low & ~standing.holds_wanted & may_collapse)
    victims = victims[np.lexsort((-victims, standing.mean[victims]))]
    may_collapse_slots = np.zeros(len(context), dtype=bool)
    may_collapse_slots[groups.first[may_collapse]] = True
    return Options(
        context=context,
        scores=scores,
        expand=expand,
        depth=context.lod[expand],
        collapse=groups.first[victims],
        collapse_scores=standing.mean[victims],
        may_expand=may_expand,
        may_collapse=may_collapse_slots,
        room=(budget - context.cost) // (context.block_size - 1),
        budget=budget,
        step=state.step,
        goal=goal,
    )


def check_choice(edits: Sequence[Edit], options: Options, config: AllocatorConfig) -> None:
    """Raises IllegalEditError if a strategy chose what its options do not hold, or more than a step may have.

    Whether the edits apply together and fit the budget is checked where they are applied, like any others.
    """
    if len(edits) > config.max_edits:
        raise IllegalEditError(
            f"a step has at most {config.max_edits} edits, strategy {config.strategy!r} chose {len(edits)}; "
            "mend the strategy or raise allocator.max_edits"
        )
    for edit in edits:
        allowed = options.may_expand if edit.kind == "expand" else options.may_collapse
        if not (0 <= edit.slot < len(allowed) and allowed[edit.slot]):
            raise IllegalEditError(
                f"a strategy may choose only from its options, {config.strategy!r} chose to {edit.kind} slot "
                f"{edit.slot}, which is illegal, resting, pinned, excluded or protected; mend the strategy"
            )
