"""Ways of choosing the edits of one step among options that are all legal, rested and within the rules.

Every expansion costs K - 1 positions and every collapse refunds K - 1, so a full budget trades one for one. The
strategies differ in what they open first and what they give up for it; none of them can break an invariant, because
shared code made the options and checks the choice.

Deliberately ignorant of where scores come from, and of cooldowns and rules, which the options have been through.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from megacontext.errors import ConfigError
from megacontext.focus.context import Edit, WorkingContext
from megacontext.focus.options import STRATEGIES, AllocatorConfig, Options
from megacontext.focus.toward import toward


@STRATEGIES.register("greedy")
def greedy(options: Options, config: AllocatorConfig) -> list[Edit]:
    """Expand the highest scores; where there is no room, collapse the lowest group first.

    An expansion is worth little until tokens are reached, so each is charged its whole way down: several high gists
    are opened side by side only if all of them can be followed to a block. Otherwise room would go to breadth, and
    the best path end above its tokens. The best candidate is held to its next expansion alone.
    If the step ends between a collapse and the expansion that it was for, the next step has the room.
    """
    edits: list[Edit] = []
    room, rank = options.room, 0
    victims = iter(options.collapse[: config.max_edits].tolist())
    while len(edits) < config.max_edits and rank < len(options.expand):
        if rank and room > 0:
            fits = options.depth[rank:] <= room
            if not fits.any():
                break
            rank += int(fits.argmax())
        if room > 0:
            room -= int(options.depth[rank])
        else:
            victim = next(victims, None)
            if victim is None:
                break
            edits.append(Edit("collapse", victim))
            if len(edits) == config.max_edits:
                break
        edits.append(Edit("expand", int(options.expand[rank])))
        rank += 1
    return edits


@STRATEGIES.register("stochastic")
def stochastic(options: Options, config: AllocatorConfig) -> list[Edit]:
    """Greedy over scores with noise: for variety in training, so that a lens sees contexts it would not have chosen.

    Gumbel noise of scale `config.temperature` is added to what the options score, which draws them in turn with
    probability proportional to exp(score / temperature) among those that are left; victims likewise, by the negative.
    What is below a threshold is no option and is never drawn. The noise follows from (seed, step) alone.
    """
    rng = np.random.default_rng((config.seed, options.step))
    noise = config.temperature * rng.gumbel(size=len(options.expand) + len(options.collapse))
    wanted = np.argsort(-(options.scores[options.expand] + noise[: len(options.expand)]), kind="stable")
    given_up = np.argsort(options.collapse_scores - noise[len(options.expand) :], kind="stable")
    drawn = replace(
        options,
        expand=options.expand[wanted],
        depth=options.depth[wanted],
        collapse=options.collapse[given_up],
        collapse_scores=options.collapse_scores[given_up],
    )
    return greedy(drawn, config)


@STRATEGIES.register("balanced")
def balanced(options: Options, config: AllocatorConfig) -> list[Edit]:
    """Spread detail so that the score mass per position evens out between the parts of history.

    The mass of an entry is m = (1 + score) / 2, from 0 to 1; a group's is its mean. The family of an entry is what the
    context shows of its parent's span, P positions (P = K as long as no sibling is opened). Its density is
    m * K / P: mass per position, in units of an unopened family. Each pick opens the densest option, whose family then
    has K - 1 positions more, so that its siblings wait until less crowded families have had their turn. Where there is
    no room, the group of least density is folded for it, but only if what is opened stays at least as dense, after
    opening, as what is folded was before: a trade never makes the spread less even. The way down is not charged.
    """
    opening = _Densities(options.context, options.expand, (1 + options.scores[options.expand]) / 2)
    folding = _Densities(options.context, options.collapse, (1 + options.collapse_scores) / 2)
    edits: list[Edit] = []
    room = options.room
    while len(edits) < config.max_edits and (best := opening.highest()) is not None:
        if room > 0:
            edits.append(opening.take(best, "expand"))
            room -= 1
        else:
            worst = folding.lowest()
            if worst is None or opening.density(best, opened=True) < folding.density(worst):
                break
            edits.append(folding.take(worst, "collapse"))
            room += 1
        for densities in (opening, folding):
            densities.resize(edits[-1])
    return edits


class _Densities:
    """Mass per position of some slots, best option first, as the edits of one step change their families."""

    def __init__(self, context: WorkingContext, slots: np.ndarray, mass: np.ndarray):
        self._context, self._slots, self._mass = context, slots, mass
        width = context.block_size ** (np.maximum(context.lod[slots], 1) + 1)
        # The parent's span, also where the history has not completed it yet.
        self._start = context.start[slots] // width * width
        self._stop = np.minimum(self._start + width, context.num_tokens)
        before = np.concatenate([[0], np.cumsum(context.costs)])
        first = np.searchsorted(context.start, self._start, side="left")
        end = np.searchsorted(context.start, self._stop, side="left")
        self._positions = (before[end] - before[first]).astype(np.float64)
        self._left = np.ones(len(slots), dtype=bool)

    def highest(self) -> int | None:
        """Which option is densest, the first of equals; None when all are taken."""
        if not self._left.any():
            return None
        return int(np.argmax(np.where(self._left, self._densities(), -np.inf)))

    def lowest(self) -> int | None:
        """Which option is least dense, the first of equals; None when all are taken."""
        if not self._left.any():
            return None
        return int(np.argmin(np.where(self._left, self._densities(), np.inf)))

    def density(self, option: int, *, opened: bool = False) -> float:
        """Of one option as it is, or as it would be after it is opened."""
        size = self._context.block_size
        return float(self._mass[option] * size / (self._positions[option] + (size - 1 if opened else 0)))

    def take(self, option: int, kind: Literal["expand", "collapse"]) -> Edit:
        """The edit of one option, which is then no option any more."""
        self._left[option] = False
        return Edit(kind, int(self._slots[option]))

    def resize(self, edit: Edit) -> None:
        """Let the families that hold an edited slot grow, or shrink, by K - 1 positions."""
        token = self._context.start[edit.slot]
        change = self._context.block_size - 1
        holds = (self._start <= token) & (token < self._stop)
        self._positions[holds] += change if edit.kind == "expand" else -change

    def _densities(self) -> np.ndarray:
        return self._mass * self._context.block_size / self._positions


@STRATEGIES.register("exact")
def exact(options: Options, config: AllocatorConfig) -> list[Edit]:
    """Walk to the goal, the best context that there is, in steps that are each legal and within the budget.

    The best context follows from utilities of nodes, most of which are not in the present context, so scores of
    entries cannot say it: whoever has utilities finds the goal once a refocus (`best_context`) and gives it to
    `refocus` or `plan` beside the scores, which this strategy does not look at; every other strategy ignores the goal.
    Rules, cooldown and protected tokens hold here as everywhere; the thresholds do not. Raises ConfigError without
    a goal.
    """
    if options.goal is None:
        raise ConfigError(
            "strategy 'exact' must be given a goal, got None; find one with best_context and pass "
            "it as refocus(..., goal=...), or choose another strategy"
        )
    return toward(
        options.context,
        options.goal,
        options.budget,
        config.max_edits,
        may_expand=options.may_expand,
        may_collapse=options.may_collapse,
    )
