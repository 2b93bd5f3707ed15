"""What is drawn stands where the frame says."""

from pathlib import Path

import holoviews as hv
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import ConfigError, ShapeError
from megacontext.spans import complete_counts
from workbench import plots
from workbench.plots.curves import MAX_POINTS, thinned
from workbench.stores.run import RunStore

K = 32


@pytest.fixture(scope="module")
def store(finished_run: Path) -> RunStore:
    return RunStore(finished_run)


@pytest.fixture(scope="module")
def entries(store: RunStore) -> pl.DataFrame:
    return store.entries("book-0", "lensnet", 1, step=1)


@pytest.mark.parametrize("x", ["tokens", "budget"])
def test_boxes_tile_their_axis(entries: pl.DataFrame, x: str) -> None:
    boxes = plots.entry_boxes(entries, x)
    assert boxes["x0"][0] == 0 and (boxes["x0"][1:] == boxes["x1"][:-1]).all()
    assert boxes["x1"][-1] == (entries["stop"].max() if x == "tokens" else entries["cost_positions"].sum())


def test_every_position_of_budget_is_equally_wide(entries: pl.DataFrame) -> None:
    boxes = plots.entry_boxes(entries, "budget")
    assert ((boxes["x1"] - boxes["x0"]) == entries["cost_positions"]).all()


def test_an_unknown_axis_is_refused(entries: pl.DataFrame) -> None:
    with pytest.raises(ConfigError, match="tokens, budget"):
        plots.entry_boxes(entries, "time")


def test_every_plot_of_a_run_renders(store: RunStore, entries: pl.DataFrame) -> None:
    scores = store.block_scores("book-0", 1)
    elements = [
        plots.context_strip(entries), plots.context_strip(entries, "budget"),
        plots.context_steps(store.entries("book-0", "lensnet", 1), "budget"),
        plots.context_lens(entries, [12_000]), plots.lens_scores(entries, threshold=0.2),
        plots.tree_pyramid(scores, store.num_tokens("book-0"), K, needed=[391], raw=[3, 391]),
        plots.accuracy_bars(store.rows("16k")), plots.accuracy_by_depth(store.depth("16k")),
        *(plots.curves(store.frame(panel.kind), panel) for panel in (*plots.TRAIN_PANELS, *plots.INGEST_PANELS)),
    ]  # fmt: skip
    for element in elements:
        assert hv.render(element).renderers


def test_plots_of_nothing_render_too(store: RunStore) -> None:
    none = store.frame("entry").head(0)
    for element in (
        plots.context_strip(none), plots.context_steps(none), plots.context_lens(none), plots.lens_scores(none),
        plots.tree_pyramid(store.block_scores("x", 0), 0, K), plots.accuracy_bars(store.rows("x")),
        plots.accuracy_by_depth(store.depth("x")), plots.curves(store.frame("train").head(0), plots.TRAIN_PANELS[0]),
    ):  # fmt: skip
        hv.render(element)


def test_bars_without_intervals_stand_without_whiskers(store: RunStore) -> None:
    rows = store.rows("16k").with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64))
    overlay = plots.accuracy_bars(rows)
    assert len(overlay.get(1)) == 0 and len(overlay.get(0)) == 8


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.sampled_from([0, 1, 31, 32, 33, 1023, 1024, 1025, 32_749, 40_009]),
    columns=st.integers(1, 80),
)
def test_the_pyramid_keeps_the_maximum_of_every_level(num_tokens: int, columns: int) -> None:
    counts = complete_counts(num_tokens, K)
    blocks = counts[1] if len(counts) > 1 else 0
    values = np.random.default_rng(num_tokens).normal(size=blocks)
    rows = plots.pyramid_columns(values, num_tokens, K, 0, num_tokens, columns)
    assert [row[0] for row in rows] == list(range(1, len(counts)))
    for lod, start, stop, shown in rows:
        assert start == 0 and stop == counts[lod] * K**lod and 0 < len(shown) <= max(columns, 1)
        assert shown.max() == values[: counts[lod] * K ** (lod - 1)].max()


def test_a_zoomed_pyramid_shows_single_blocks() -> None:
    values = np.arange(1024.0)
    (_, start, stop, shown), *_ = plots.pyramid_columns(values, 32_768, K, 100.0, 200.0)
    assert (start, stop) == (96, 224) and shown.tolist() == [3, 4, 5, 6]


def test_a_range_beyond_the_history_draws_nothing() -> None:
    assert plots.pyramid_columns(np.zeros(32), 1024, K, 5000, 6000) == []


def test_a_pyramid_needs_a_value_for_every_block() -> None:
    with pytest.raises(ShapeError, match="32"):
        plots.pyramid_columns(np.zeros(31), 1024, K, 0, 1024)


def test_thinning_keeps_both_ends() -> None:
    x = np.arange(10.0 * MAX_POINTS)
    few, _ = thinned(x, x)
    assert len(few) == MAX_POINTS and few[0] == 0 and few[-1] == x[-1]


def test_lines_leave_out_what_was_not_measured(store: RunStore) -> None:
    panel = plots.TRAIN_PANELS[1]
    series = plots.panel_series(store.frame("train"), panel)
    assert series["LensNet"][0].min() == 300 and series["answers"][0].min() == 0


def test_each_history_has_a_line_of_its_own(store: RunStore) -> None:
    assert list(plots.panel_series(store.frame("ingest"), plots.INGEST_PANELS[0])) == [
        "16k-0",
        "16k-1",
        "book-0",
    ]


def test_a_lens_that_is_drawn_on_takes_the_limits_and_labels_of_each_context() -> None:
    def entries(count: int) -> pl.DataFrame:
        numbers = list(range(count))
        return pl.DataFrame({
            "slot": numbers, "lod": [1] * count, "index": numbers, "start": [32 * one for one in numbers],
            "stop": [32 * one + 32 for one in numbers], "cost_positions": [1] * count, "score": [0.0] * count,
            "edit": [""] * count,
        })  # fmt: skip

    pipe = hv.streams.Pipe(data=entries(10))
    figure = (
        hv.renderer("bokeh")
        .get_plot(hv.DynamicMap(lambda data: plots.context_lens(data), streams=[pipe]))
        .state
    )
    for count in (20, 7):
        pipe.send(entries(count))
        assert (figure.x_range.end, figure.extra_x_ranges["tokens"].end) == (count, 32 * count)
        assert "history" in figure.above[0].axis_label and "context" in figure.below[0].axis_label
