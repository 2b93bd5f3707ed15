"""How fast the focus allocator plans and edits, and how far its strategies stay behind the best context there is.

Three arms: one step of every strategy at several sizes of context; the exact best context at several lengths of
history; and the value that each strategy reaches against it, on random utilities of blocks. Every arm first checks what
it measures: edits made at once equal edits made one by one, contexts keep their budget, nothing beats the exact value.

The contexts and numbers are drawn, not read from a memory: planning never looks at a vector, so none is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from megacontext.bench.machine import machine
from megacontext.bench.measuring import spread, timed
from megacontext.errors import ConfigError
from megacontext.focus import (
    STRATEGIES,
    AllocatorConfig,
    AllocatorState,
    Edit,
    FocusStep,
    NodeUtilities,
    Plan,
    Rules,
    ScoreFunction,
    WorkingContext,
    best_context,
    plan,
    refocus,
    value_of,
)

BLOCK = 32
SHAPES = ("independent", "clustered")
"""Utilities of blocks: exponential, each for itself; or of parts of history that are worth more as a whole."""


@dataclass(frozen=True, kw_only=True)
class FocusBenchConfig:
    """Sizes of a run. The defaults take ten seconds."""

    entries: tuple[int, ...] = (512, 2048, 8192)
    """Working contexts whose planning is timed, about so many entries each."""
    planned_tokens: int = 10_000_000
    """History of those contexts."""
    rounds: int = 50
    """Timed plans, and applications, of each strategy at each size."""
    exact_tokens: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    """Histories whose best context is found."""
    budget: int = 8192
    """Positions of those best contexts."""
    exact_rounds: int = 5
    """Timed searches at each length."""
    seeds: int = 3
    """Draws of utilities that the strategies are compared on, at each length."""
    max_steps: int = 400
    """Steps of one refocus at most."""

    def __post_init__(self) -> None:
        for name in ("rounds", "exact_rounds", "seeds", "max_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}; raise it")
        if not self.entries or not self.exact_tokens or min(self.entries) < 4 * BLOCK:
            raise ConfigError(
                f"a bench needs sizes, and contexts of at least {4 * BLOCK} entries, got {self.entries} and "
                f"{self.exact_tokens}; name some"
            )


def bench_focus(config: FocusBenchConfig, say: Callable[[str], None] = lambda arm: None) -> dict[str, Any]:
    """All figures, as JSON would hold them. `say` is told which arm begins."""
    told: dict[str, Any] = {"machine": machine(), "config": vars(config)}
    say("planning and editing")
    told["planning"] = [
        planning(config, name, size) for size in config.entries for name in STRATEGIES.names()
    ]
    say("the best context")
    told["exact"] = [exact(config, tokens) for tokens in config.exact_tokens]
    say("strategies against it")
    told["shares"] = [
        row for tokens in config.exact_tokens for shape in SHAPES for row in shares(config, tokens, shape)
    ]
    return told


def planning(config: FocusBenchConfig, strategy: str, entries: int) -> dict[str, Any]:
    """Milliseconds of one step in a full context: planning, applying, and the rows that a reading needs.

    Rules with a pinned and an excluded span and a running cooldown are part of it. Every timed call gets a context of
    its own, because a context keeps what was once computed of it.
    """
    context = random_context(config.planned_tokens, entries, np.random.default_rng(entries))
    scores = family_scores(context, np.random.default_rng(1))
    budget = context.cost
    allocator = AllocatorConfig(strategy=strategy)
    first_raw = int(context.index[context.lod == 0][0]) * BLOCK
    rules = Rules(
        pinned=((first_raw, first_raw + 1),),
        excluded=((context.num_tokens // 2, context.num_tokens // 2 + 2000),),
    )
    utilities = block_utilities(context.num_tokens, "independent", np.random.default_rng(2))
    goal = best_context(utilities, budget)
    state = AllocatorState()

    def taken_ms(work: Callable[[WorkingContext], object]) -> list[float]:
        fresh = [
            WorkingContext(context.lod, context.index, context.num_tokens, BLOCK)
            for _ in range(config.rounds)
        ]
        return [1000 * timed(lambda one=one: work(one)) for one in fresh]

    def planned(one: WorkingContext) -> Plan:
        return plan(one, scores, budget, state, allocator, rules, goal=goal)

    def rows(one: WorkingContext) -> None:
        _ = one.start, one.stop, one.costs, one.cost

    # A step first, so that there is something to rest.
    before = planned(context)
    context, state = context.apply(before.edits, budget), before.state
    scores = family_scores(context, np.random.default_rng(3))
    edits = planned(context).edits
    _check_step(context, edits, budget, allocator)
    return {
        "strategy": strategy,
        "entries": len(context),
        "edits": len(edits),
        **spread("plan_ms", taken_ms(planned)),
        **spread("apply_ms", taken_ms(lambda one: one.apply(edits, budget))),
        **spread("materialise_ms", taken_ms(rows)),
    }


def exact(config: FocusBenchConfig, tokens: int) -> dict[str, Any]:
    """Milliseconds to find the best context of a history, and what it is worth."""
    utilities = block_utilities(tokens, "independent", np.random.default_rng(0))
    best = best_context(utilities, config.budget)
    assert best.cost <= config.budget
    # With one expansion less, the best is worth no more; with room for everything, it is everything.
    less = best_context(utilities, config.budget - (BLOCK - 1))
    assert value_of(less, utilities) <= value_of(best, utilities)
    some = block_utilities(BLOCK**3 + 5 * BLOCK + 3, "independent", np.random.default_rng(1))
    assert best_context(some, some.num_tokens) == WorkingContext.raw(some.num_tokens, BLOCK)
    taken = [1000 * timed(lambda: best_context(utilities, config.budget)) for _ in range(config.exact_rounds)]
    return {
        "tokens": tokens,
        "budget_positions": config.budget,
        "cost_positions": best.cost,
        "raw_blocks": int(np.count_nonzero(best.lod == 0)),
        "value": value_of(best, utilities),
        **spread("best_ms", taken),
    }


def shares(config: FocusBenchConfig, tokens: int, shape: str) -> list[dict[str, Any]]:
    """What each strategy's refocus from the coarse cover is worth, over the best; by draws of utilities.

    The strategies see what a scorer would tell: for each entry the rank of its best block. "exact" walks to its goal.
    """
    reached: dict[str, list[tuple[float, float, int]]] = {name: [] for name in STRATEGIES.names()}
    for seed in range(config.seeds):
        utilities = block_utilities(tokens, shape, np.random.default_rng((seed, tokens)))
        goal = best_context(utilities, config.budget)
        best = value_of(goal, utilities)
        score = best_block_ranks(utilities, config.budget // BLOCK)
        for name, found in reached.items():
            steps = walk(
                name, WorkingContext.cover(tokens, BLOCK), score, config.budget, goal, config.max_steps, seed
            )
            final = steps[-1].context
            value = value_of(final, utilities)
            assert final.cost <= config.budget
            assert value <= best * (1 + 1e-9), "nothing beats the exact value"
            assert name != "exact" or len(steps) > config.max_steps or final == goal
            found.append((value / best, best - value, len(steps) - 1))
    return [
        {
            "strategy": name,
            "tokens": tokens,
            "utilities": shape,
            **spread("share_of_best", [share for share, _, _ in found]),
            **spread("regret", [missed for _, missed, _ in found]),
            **spread("steps", [float(steps) for _, _, steps in found]),
        }
        for name, found in reached.items()
    ]


def walk(
    strategy: str,
    start: WorkingContext,
    score: ScoreFunction,
    budget: int,
    goal: WorkingContext,
    max_steps: int,
    seed: int = 0,
) -> list[FocusStep]:
    """The steps of one strategy from `start`, free to fold even the newest tokens, as the best context is."""
    allocator = AllocatorConfig(strategy=strategy, seed=seed, protect_recent_tokens=0)
    return refocus(start, score, budget, AllocatorState(), allocator, max_steps, goal=goal)


def random_context(tokens: int, entries: int, rng: np.random.Generator) -> WorkingContext:
    """A context of about `entries` entries: gists of all levels, and an eighth of its families' last ones as tokens."""
    context = WorkingContext.cover(tokens, BLOCK)
    while (lacking := (entries - len(context)) // (BLOCK - 1)) > 0:
        gists = np.flatnonzero(context.lod > 1)
        opened = rng.choice(gists, min(len(gists), lacking), replace=False)
        context = context.edited_at(expand=opened)
    blocks = np.flatnonzero(context.lod == 1)
    opened = rng.choice(blocks, max(1, len(blocks) // 64), replace=False)
    return context.edited_at(expand=opened)


def family_scores(context: WorkingContext, rng: np.random.Generator) -> np.ndarray:
    """Scores that siblings share in part, as related text does, float64 (W,): so that whole families score low."""
    width = BLOCK ** (np.maximum(context.lod, 1) + 1)
    _, family = np.unique(np.stack([width, context.start // width]), axis=1, return_inverse=True)
    shared = rng.normal(0.0, 0.4, family.max() + 1)[family]
    scores = np.clip(shared + rng.normal(0.0, 0.1, len(context)), -1, 1)
    raw = np.flatnonzero(context.lod == 0)
    scores[raw] = rng.uniform(-1, 0, len(raw))
    return scores


def block_utilities(tokens: int, shape: str, rng: np.random.Generator) -> NodeUtilities:
    """Random worth of each block as tokens, of one of SHAPES; gists are worth nothing."""
    blocks = tokens // BLOCK
    raw = rng.exponential(size=blocks)
    if shape == "clustered":
        raw *= np.repeat(rng.exponential(size=blocks // BLOCK + 1), BLOCK)[:blocks]
    return NodeUtilities(num_tokens=tokens, block_size=BLOCK, raw=raw)


def best_block_ranks(utilities: NodeUtilities, room: int) -> ScoreFunction:
    """Scores by rank alone: 1 for entries with the best block, 0 with the `room`-th best, -1 from twice that on."""
    ranks = np.empty(len(utilities.raw))
    ranks[np.argsort(-utilities.raw, kind="stable")] = np.arange(len(ranks))
    scores = np.append(np.clip(1 - ranks / max(1, room), -1, 1), -1.0)  # the unfinished tail

    def score(context: WorkingContext) -> np.ndarray:
        starts = context.start // BLOCK
        return np.maximum.reduceat(scores[: -(-context.num_tokens // BLOCK)], starts)

    return score


def _check_step(
    context: WorkingContext, edits: tuple[Edit, ...], budget: int, allocator: AllocatorConfig
) -> None:
    """Edits made at once equal edits made one by one, and a full context is traded in, not left alone."""
    assert len(edits) == allocator.max_edits, "a step that is timed makes all its edits"
    after = context.apply(edits, budget)
    for edit in sorted(edits, key=lambda edit: -edit.slot):
        context = context.edited([edit])
    assert context == after
