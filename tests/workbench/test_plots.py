"""What is drawn stands where the frame says."""

from itertools import pairwise
from pathlib import Path

import holoviews as hv
import numpy as np
import polars as pl
import pytest

from megacontext.errors import ConfigError
from workbench import plots
from workbench.palette import NEUTRAL
from workbench.plots.curves import MAX_POINTS, thinned
from workbench.plots.style import figure_of
from workbench.plots.tree import colours_of, token_labels
from workbench.stores.levels import Levels
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
    tree = Levels.of_blocks(store.block_scores("book-0", 1)["score"].to_numpy(), 200_017, K)
    elements = [
        plots.context_strip(entries), plots.context_strip(entries, "budget"),
        plots.context_steps(store.entries("book-0", "lensnet", 1), "budget"),
        plots.context_lens(entries, [12_000]), plots.lens_scores(entries, threshold=0.2),
        plots.tree_pyramid(
            tree.cells(0, 200_017), 200_017, K, tree.top, needed=[391], raw=[3, 391], chosen=(2, 5)
        ).figure,
        plots.accuracy_bars(store.rows("16k")), plots.accuracy_by_depth(store.depth("16k")),
        *(plots.curves(store.frame(panel.kind), panel) for panel in (*plots.TRAIN_PANELS, *plots.INGEST_PANELS)),
    ]  # fmt: skip
    for element in elements:
        assert figure_of(element).renderers


def test_plots_of_nothing_render_too(store: RunStore) -> None:
    none = store.frame("entry").head(0)
    for element in (
        plots.context_strip(none), plots.context_steps(none), plots.context_lens(none), plots.lens_scores(none),
        plots.tree_pyramid(Levels.of_blocks(np.empty(0), 0, K).cells(0, 1), 0, K, 0).figure,
        plots.accuracy_bars(store.rows("x")),
        plots.accuracy_by_depth(store.depth("x")), plots.curves(store.frame("train").head(0), plots.TRAIN_PANELS[0]),
    ):  # fmt: skip
        figure_of(element)


def test_bars_without_intervals_stand_without_whiskers(store: RunStore) -> None:
    rows = store.rows("16k").with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64))
    overlay = plots.accuracy_bars(rows)
    assert len(overlay.get(1)) == 0 and len(overlay.get(0)) == 8


def test_a_cell_without_a_value_is_faint_and_says_so() -> None:
    cells = Levels.of_blocks(np.array([0.5]), 2 * K, K).cells(0, 2 * K)
    drawn = plots.tree_columns(cells, K, limits=(0.0, 1.0)).filter(lod=1)
    assert drawn["shown"].to_list() == ["+0.500", "–"] and drawn["alpha"].to_list()[1] < 1
    assert drawn["colour"][0] != drawn["colour"][1] == NEUTRAL


def test_higher_values_are_lighter_and_limits_hold_outliers() -> None:
    dark, middle, light, beyond = colours_of(np.array([0.0, 0.5, 1.0, 9.0]), "signed", (0.0, 1.0))
    brightness = [sum(int(one[at : at + 2], 16) for at in (1, 3, 5)) for one in (dark, middle, light)]
    assert brightness == sorted(brightness) and light == beyond


def test_neighbouring_documents_have_different_colours() -> None:
    found = colours_of(np.arange(20.0), "class", (0.0, 1.0))
    assert all(one != other for one, other in pairwise(found))


def test_ink_reads_on_its_ground() -> None:
    cells = plots.tree_columns(Levels.of_blocks(np.array([0.0, 1.0]), 2 * K, K).cells(0, 2 * K), K)
    labels = token_labels(K - 1, ["longer", "b"], cells.filter(lod=0), 4)
    assert labels["ink"] == ["#FFFFFF", "#000000"] and labels["text"] == ["lon…", "b"]
    assert labels["x"].tolist() == [K - 0.5, K + 0.5]


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
