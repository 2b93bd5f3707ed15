"""Curves of one run and of several: what they stand over, how they are smoothed, thinned, followed, and diffed."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_run import run_json, write_json

from megacontext.telemetry import SCHEMAS, TelemetryWriter
from workbench.stores import curves
from workbench.stores.comparison import EXPORTED, MOST_RUNS, Comparison, names_of, text_of
from workbench.stores.curves import Points, RunCurves, thinned
from workbench.stores.library import Library
from workbench.stores.metrics import AXES, GROUPS, KINDS, METRICS
from workbench.stores.recipes import differences, flattened

BY_NAME = {metric.name: metric for metric in METRICS}
LOSS, SWAP, RESIDENCY, P95 = (
    BY_NAME[name] for name in ("loss_nats", "swap_rate", "residency", "focus_p95_ms")
)


def run_with(folder: Path, kind: str, rows: list[dict[str, object]], recipe: str = "") -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "run.json", run_json(folder.name))
    (folder / "recipe.toml").write_text(recipe)
    emit(folder, kind, rows)
    return folder


def emit(folder: Path, kind: str, rows: list[dict[str, object]]) -> None:
    with TelemetryWriter(folder / "telemetry") as writer:
        for row in rows:
            writer.emit(kind, **row)


def training(losses: list[float], first: int = 0) -> list[dict[str, object]]:
    return [
        {"step": first + at, "stage": "base", "loss_nats": loss, "tokens_seen": 10 * at, "wall_s": at / 2}
        for at, loss in enumerate(losses)
    ]


def focus_step(**columns: object) -> dict[str, object]:
    return {"history": "h-0", "arm": "lensnet", "question": 0, "step": 0} | columns


def test_every_metric_is_of_columns_that_telemetry_has() -> None:
    assert len(BY_NAME) == len(METRICS) and tuple(GROUPS) == KINDS
    for metric in METRICS:
        empty = pl.DataFrame(schema=SCHEMAS[metric.kind] | {"row": pl.Int64()})
        assert {metric.stands_over(axis)[0] for axis in AXES} <= set(empty.columns)
        empty.select(metric.value)


@pytest.mark.parametrize(("axis", "x"), [("step", [0, 1, 2]), ("tokens", [0, 10, 20]), ("time", [0, 0.5, 1])])
def test_a_curve_stands_over_step_tokens_or_time(tmp_path: Path, axis: str, x: list[float]) -> None:
    points = RunCurves(run_with(tmp_path / "run", "train", training([3, 2, 1]))).points(LOSS, axis)
    assert (
        points.x.tolist() == x and points.value.tolist() == [3, 2, 1] and points.smooth.tolist() == [3, 2, 1]
    )


def test_an_axis_that_was_not_recorded_says_so_and_is_replaced(tmp_path: Path) -> None:
    column, words = SWAP.stands_over("time")
    assert column == "row" and "no time recorded" in words and "no time" not in SWAP.stands_over("step")[1]


def test_a_line_breaks_where_its_axis_goes_back_and_smoothing_begins_anew(tmp_path: Path) -> None:
    rows = training([4.0, 4.0]) + training([1.0, 1.0])
    points = RunCurves(run_with(tmp_path / "run", "train", rows)).points(LOSS, "step", half_life=5)
    np.testing.assert_array_equal(points.x, [0, 1, np.nan, 0, 1])
    np.testing.assert_allclose(points.smooth, [4, 4, np.nan, 1, 1])


def test_smoothing_halves_the_weight_of_a_point_every_half_life(tmp_path: Path) -> None:
    values = [0.0, 0.0, 0.0, 8.0]
    points = RunCurves(run_with(tmp_path / "run", "train", training(values))).points(
        LOSS, "step", half_life=1
    )
    weights = np.array([1 / 8, 1 / 4, 1 / 2, 1])
    assert points.smooth[-1] == pytest.approx((weights * values).sum() / weights.sum())
    assert points.value.tolist() == values


def test_swap_rate_budget_use_and_residency_are_shares_of_the_entries(tmp_path: Path) -> None:
    steps = [
        focus_step(entries=64, expanded=1, collapsed=0, cost_positions=192, budget_positions=256),
        focus_step(entries=64, expanded=2, collapsed=1, cost_positions=256, budget_positions=256),
        focus_step(entries=0, expanded=0, collapsed=0, cost_positions=0, budget_positions=0),
    ]
    run = RunCurves(run_with(tmp_path / "run", "focus", steps, "[memory]\nblock_size = 32\n"))
    assert run.points(SWAP, "step").value.tolist() == [1 / 64, 3 / 64]
    assert run.points(RESIDENCY, "step").value.tolist() == [1 - 1 / 64, 1 - 34 / 64]
    assert run.points(BY_NAME["budget_use"], "step").value.tolist() == [0.75, 1.0]


def test_residency_is_unknown_where_the_block_size_is(tmp_path: Path) -> None:
    run = RunCurves(run_with(tmp_path / "run", "focus", [focus_step(entries=64, expanded=1, collapsed=0)]))
    assert not run.has(RESIDENCY) and run.has(SWAP)


def test_latencies_are_quantiles_of_the_last_hundred(tmp_path: Path) -> None:
    values = np.random.default_rng(3).gamma(2, 5, 257)
    run = RunCurves(run_with(tmp_path / "run", "focus", [focus_step(latency_ms=value) for value in values]))
    points = run.points(P95, "step")
    for at in (0, 1, 98, 99, 100, 256):
        assert points.value[at] == pytest.approx(np.quantile(values[max(0, at - 99) : at + 1], 0.95))


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=6), half_life=st.sampled_from([0, 1, 5, 20]),
    name=st.sampled_from(["loss_nats", "lens_accuracy", "tokens_per_s"]),
)  # fmt: skip
def test_a_line_followed_piece_by_piece_is_the_line_drawn_at_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], half_life: int, name: str
) -> None:
    rng = np.random.default_rng(0)
    rows = training(list(rng.normal(size=150))) + training(list(rng.normal(size=150)))
    for at, row in enumerate(rows):
        row |= {"lens_accuracy": rng.random() if at % 7 == 0 else None, "tokens_per_s": float(at)}
    run = RunCurves(run_with(tmp_path_factory.mktemp("followed") / "run", "train", rows))
    whole = run.points(BY_NAME[name], "step", half_life)
    places = sorted({0, *cuts, 300})
    frame = run._frames["train"]
    pieces = []
    for begin, end in pairwise(places):
        run._frames["train"] = frame[:end]
        pieces.append(run.points(BY_NAME[name], "step", half_life, since=begin))
    for column in ("x", "value", "smooth"):
        joined = np.concatenate([getattr(piece, column) for piece in pieces])
        np.testing.assert_allclose(joined, getattr(whole, column), rtol=1e-5, atol=1e-5)


def test_new_rows_are_taken_in_and_old_ones_leave_when_they_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "ROWS_KEPT", 100)
    monkeypatch.setattr(curves, "REST_S", 0.0)
    folder = run_with(tmp_path / "run", "focus", [])
    run = RunCurves(folder)
    for part in range(8):
        emit(folder, "focus", [focus_step(entries=1, expanded=0, collapsed=0)] * 31)
        run.refresh()
        assert run.taken("focus") == 31 * (part + 1)
    points = run.points(SWAP, "step")
    assert len(points) <= 100 and points.x[-1] == 247 and points.x[0] > 100


def test_another_run_in_the_same_folder_is_read_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "REST_S", 0.0)
    folder = run_with(tmp_path / "run", "train", training([5, 4, 3]))
    run = RunCurves(folder)
    (folder / "telemetry" / "train" / "part-000001.parquet").unlink()
    emit(folder, "train", training([9.0]))
    write_json(folder / "run.json", run_json("run", started="2025-02-02T10:00:00+00:00"))
    run.refresh()
    assert run.points(LOSS, "step").value.tolist() == [9.0]


@pytest.mark.parametrize("count", [0, 1, 1599, 1600, 1601, 100_003])
def test_thinning_keeps_the_spikes_and_both_ends(count: int) -> None:
    value = np.random.default_rng(1).normal(size=count)
    if count > 1000:
        value[777], value[888] = 99.0, -99.0
    x = np.arange(float(count))
    few = thinned(Points(x, value, value))
    assert len(few) <= 1700 and set(few.x) <= set(x) and (np.diff(few.x) > 0).all()
    if count:
        assert (few.value.max(), few.value.min()) == (value.max(), value.min())
        assert (few.x[0], few.x[-1]) == (0, count - 1)


def test_thinning_keeps_the_breaks() -> None:
    x = np.arange(10_000.0)
    value = np.where(x == 5_000, np.nan, x)
    few = thinned(Points(np.where(x == 5_000, np.nan, x), value, value))
    assert np.isnan(few.x).sum() == 1 and np.isnan(few.value).sum() == 1


def test_recipes_are_compared_key_by_key_however_deep() -> None:
    one = {
        "seed": 0,
        "focus": {"budget": 256, "lens": {"depth": 2}},
        "stages": [{"lr": 0.1}, {"lr": 0.2}],
        "same": 1,
    }
    other = {"seed": 0, "focus": {"budget": 512}, "stages": [{"lr": 0.1}], "same": 1, "name": "x"}
    assert [(row.key, row.values) for row in differences([one, other])] == [
        ("focus.budget", ("256", "512")), ("focus.lens.depth", ("2", None)), ("stages.1.lr", ("0.2", None)),
        ("name", (None, "x")),
    ]  # fmt: skip
    assert flattened({"a": [1, 2], "b": True, "c": "text"}) == {"a": "[1, 2]", "b": "true", "c": "text"}


def test_equal_runs_differ_in_nothing_and_fingerprints_are_named(tmp_path: Path) -> None:
    for name, fingerprint in (("a", "x"), ("b", "x"), ("c", "y")):
        folder = run_with(tmp_path / name, "train", [], "seed = 7\n")
        write_json(folder / "run.json", run_json(name, recipe_fingerprint=fingerprint))
    library = Library(tmp_path)
    assert Comparison(["a", "b"], library.curves).differences() == []
    (row,) = Comparison(["a", "c"], library.curves).differences()
    assert (row.key, row.values) == ("fingerprint of the recipe", ("x", "y"))


def test_a_run_that_cannot_be_opened_does_not_keep_the_others(tmp_path: Path) -> None:
    run_with(tmp_path / "well", "train", training([2.0, 1.0]))
    (tmp_path / "ill").mkdir()
    (tmp_path / "ill" / "run.json").write_text('{"format": 99}')
    comparison = Comparison(["ill", "well", "../well"], Library(tmp_path).curves)
    assert list(comparison.runs) == ["well"] and comparison.metrics() == [LOSS]
    assert (
        "update MegaContext" in comparison.problems["ill"] and "bare name" in comparison.problems["../well"]
    )


def test_a_run_that_is_damaged_later_keeps_its_curves_beside_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "REST_S", 0.0)
    folder = run_with(tmp_path / "run", "train", training([2.0]))
    comparison = Comparison(["run"], Library(tmp_path).curves)
    (folder / "run.json").write_text("{")
    comparison.refresh()
    assert "run.json" in comparison.problems["run"] and len(comparison.runs["run"].points(LOSS, "step")) == 1
    write_json(folder / "run.json", run_json("run"))
    comparison.refresh()
    assert comparison.problems == {}


def test_the_export_holds_every_point_of_every_run(tmp_path: Path) -> None:
    for name, losses in (("a", [3.0, 2.0]), ("b", [5.0])):
        run_with(tmp_path / name, "train", training(losses))
    frame = Comparison(["a", "b"], Library(tmp_path).curves).frame([LOSS], "tokens", 2)
    assert frame.schema == EXPORTED
    assert frame.select("run", "x", "value", "axis").rows() == [
        ("a", 0.0, 3.0, "tokens read"), ("a", 10.0, 2.0, "tokens read"), ("b", 0.0, 5.0, "tokens read"),
    ]  # fmt: skip


@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1), max_size=12))
def test_names_survive_their_address(names: list[str]) -> None:
    once = list(dict.fromkeys(names))[:MOST_RUNS]
    assert names_of(text_of(names)) == once
