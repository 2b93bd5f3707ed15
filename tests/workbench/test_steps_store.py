"""What one recorded step did, told from its rows alone, is what the allocator did."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from megacontext.focus import AllocatorConfig, AllocatorState, Reason, WorkingContext, refocus
from megacontext.runtime.tracing import record_focus
from megacontext.telemetry import TelemetryWriter, read
from workbench.stores.steps import (
    changes,
    context_of,
    decisions,
    level_raster,
    needed_standing,
    question_positions,
    reason_counts,
    room_positions,
)

K, TOKENS, BUDGET = 8, 1023, 96


@pytest.fixture(scope="module")
def steps() -> list:
    """A refocus that opens and folds: what was wanted first is not wanted any more."""
    rng = np.random.default_rng(3)
    worth = rng.uniform(-1, 1, (2, -(-TOKENS // K)))
    state, context, made = AllocatorState(), WorkingContext.cover(TOKENS, K), []
    for row in worth:

        def best(one: WorkingContext, row: np.ndarray = row) -> np.ndarray:
            return np.array(
                [row[a // K : -(-b // K)].max() for a, b in zip(one.start, one.stop, strict=True)]
            )

        found = refocus(context, best, BUDGET, state, AllocatorConfig(protect_recent_tokens=0), 12)
        made, context, state = [*made, *found], found[-1].context, found[-1].state
    return made


@pytest.fixture(scope="module")
def entries(steps: list, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("steps")
    with TelemetryWriter(folder) as writer:
        record_focus(writer, steps, history="h", arm="a", question=0, budget_positions=BUDGET + 10)
    return read(folder, "entry")


def test_rows_give_back_the_context(steps: list, entries: pl.DataFrame) -> None:
    for at, step in enumerate(steps):
        assert context_of(entries.filter(pl.col("step") == at), K) == step.context


def test_changes_are_what_the_next_context_shows(steps: list, entries: pl.DataFrame) -> None:
    kinds = set()
    for at, step in enumerate(steps):
        after = step.context.apply(step.edits, BUDGET)
        found = changes(entries.filter(pl.col("step") == at), K)
        assert len(found) == len(step.edits)
        for change in found:
            kinds.add(change.kind)
            inside = (after.start >= change.start) & (after.stop <= change.stop)
            assert set(after.lod[inside]) == {change.lod}
            assert after.start[inside][0] == change.start and after.stop[inside][-1] == change.stop
    assert {"visible", "finer", "folded"} <= kinds


def test_every_entry_has_one_reason_and_what_was_refused_stands_behind_the_edits(
    steps: list, entries: pl.DataFrame
) -> None:
    for at, step in enumerate(steps):
        rows = entries.filter(pl.col("step") == at)
        assert reason_counts(rows)["entries"].sum() == len(rows)
        told = decisions(rows)
        edits = len(step.edits)
        assert (told["edit"][:edits] != "").all() and (told["edit"][edits:] == "").all()
        assert len(told) - edits == step.refused
    assert Reason.BUDGET.words in decisions(entries)["words"].to_list()


def test_a_run_from_before_reasons_tells_its_edits(entries: pl.DataFrame) -> None:
    older = entries.with_columns(reason=pl.lit(None, dtype=pl.String))
    assert reason_counts(older).is_empty()
    assert set(decisions(older)["edit"]) == {"expand", "collapse"} and decisions(older)[
        "words"
    ].null_count() == len(decisions(older))


@pytest.mark.parametrize("columns", [1, 7, 96, 900])
def test_a_raster_loses_no_raw_block_however_coarse(entries: pl.DataFrame, columns: int) -> None:
    for axis in ("tokens", "budget"):
        raster = level_raster(entries, axis, columns)
        assert raster.levels.shape == (entries["step"].n_unique(), columns)
        for step, row in zip(raster.steps, raster.levels, strict=True):
            here = entries.filter(pl.col("step") == step)
            assert row.min() == -1 or row.min() == here["lod"].min()
            assert set(row[row >= 0]) <= set(here["lod"])


def test_a_fine_raster_over_tokens_is_the_level_of_each_token(entries: pl.DataFrame) -> None:
    raster = level_raster(entries, "tokens", TOKENS)
    context = context_of(entries.filter(pl.col("step") == 0), K)
    assert np.array_equal(raster.levels[0], context.lod[context.slot_of(np.arange(TOKENS))])


def test_the_needed_token_is_found_in_every_step(steps: list, entries: pl.DataFrame) -> None:
    found = needed_standing(entries, [0, 500])
    assert len(found) == 2 * len(steps)
    for row in found.to_dicts():
        context = steps[row["row"]].context
        slot = int(context.slot_of(np.array([row["token"]]))[0])
        assert row["lod"] == context.lod[slot]
        assert row["position"] == context.costs[: slot + 1].sum() - context.costs[slot] / 2
    assert needed_standing(entries, []).is_empty()


def test_the_room_is_the_budget_without_the_question() -> None:
    steps = pl.DataFrame({"cost_positions": [20, 90], "budget_positions": [128, 128]})
    answers = pl.DataFrame({"cost_positions": [105]})
    assert (question_positions(steps, answers), room_positions(steps, answers)) == (15, 113)
    assert question_positions(steps, answers.head(0)) is None and room_positions(steps, answers.head(0)) == 90


def test_nothing_gives_an_empty_raster() -> None:
    none = read(Path("/nowhere"), "entry")
    assert level_raster(none, "tokens").levels.shape == (0, 900) and changes(none, K) == []
