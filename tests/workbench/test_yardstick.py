"""Regret against the exact context is never negative, and zero only where nothing is better; ranks agree with ranks."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.focus import WorkingContext
from megacontext.focus.context import Edit
from workbench.stores.agreement import agreement
from workbench.stores.yardstick import against_exact, best_edits

K = 8


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.sampled_from([64, 65, 511, 512, 600, 1023]),
    opened=st.integers(0, 3),
)
def test_nothing_is_better_than_the_exact_context(seed: int, tokens: int, opened: int) -> None:
    rng = np.random.default_rng(seed)
    context = WorkingContext.cover(tokens, K)
    for _ in range(opened):
        context = context.edited([Edit("expand", int(rng.choice(np.flatnonzero(context.lod))))])
    worth = rng.normal(size=tokens // K)
    found = against_exact(context, worth, context.cost + 20)
    assert found.regret >= -1e-9 and found.cost_positions <= context.cost + 20
    gained = sum(value for _, value in found.missed) - sum(value for _, value in found.spent)
    assert np.isclose(gained, found.regret)


def test_the_exact_context_has_no_regret_against_itself() -> None:
    worth = np.linspace(-1, 1, 512 // K)
    first = against_exact(WorkingContext.cover(512, K), worth, 60)
    best = WorkingContext(np.array(first.lod), np.array(first.index), 512, K)
    again = against_exact(best, worth, 60)
    assert again.regret == 0 and again.missed == again.spent == [] and first.regret > 0


def test_one_step_could_open_the_highest_scores_that_have_room() -> None:
    context = WorkingContext.cover(K * 6, K)  # six gists of the first level
    scores = np.array([0.9, 0.1, 0.8, 0.7, -0.9, 0.3])
    found = best_edits(context, scores, context.cost + 2 * (K - 1), 0.2, [3])
    assert found.expand == [0, 2] and found.folded == 0
    assert np.isclose(found.value, 0.7) and np.isclose(found.best, 1.7) and np.isclose(found.regret, 1.0)


def test_what_may_fold_makes_room_and_what_is_protected_may_not() -> None:
    context = WorkingContext.cover(K * 4, K).edited([Edit("expand", 3)])  # the last block is raw
    scores = np.array([0.9, 0.0, 0.0, -0.9])
    assert best_edits(context, scores, context.cost, 0.2, []).expand == [0]
    assert best_edits(context, scores, context.cost, 0.2, [], protect_recent_tokens=1).expand == []


def frame(scores: list[float | None]) -> pl.DataFrame:
    count = len(scores)
    return pl.DataFrame({
        "slot": range(count), "lod": [1] * count, "index": range(count), "start": range(count), "stop": range(count),
        "score": pl.Series(scores, dtype=pl.Float64),
    })  # fmt: skip


def test_the_same_order_agrees_fully_whatever_the_scale() -> None:
    found = agreement(frame([0.1, 0.2, 0.9]), frame([-0.9, -0.8, 1.0]))
    assert np.isclose(found.correlation, 1) and found.disputed().is_empty()
    assert np.isclose(agreement(frame([1, 2, 3]), frame([3, 2, 1])).correlation, -1)


def test_entries_that_only_one_has_scored_are_left_out() -> None:
    found = agreement(frame([0.1, 0.2, 0.9]), frame([0.5, None, 0.1]))
    assert (len(found.rows), found.entries) == (2, 3)
    assert found.disputed()["gap"].to_list() == [1, -1]


def test_scores_that_are_all_alike_have_no_order_to_compare() -> None:
    assert agreement(frame([0.1, 0.2]), frame([1, 1])).correlation is None
    assert agreement(frame([]), frame([])).correlation is None
