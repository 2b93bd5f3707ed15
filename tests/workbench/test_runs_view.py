"""The list of runs and the curves of those that are chosen, as rows of the grid and points in the plots' sources."""

import io
import re
from pathlib import Path

import polars as pl
import pytest
from desks import live_run, words
from make_run import run_json, train_rows, write_json
from numpy.random import default_rng

from megacontext.telemetry import TelemetryWriter
from workbench.desk import Desk
from workbench.palette import SERIES
from workbench.state import Selection
from workbench.stores import curves
from workbench.stores.comparison import MOST_RUNS
from workbench.stores.library import Library
from workbench.views import RunsView
from workbench.views.comparison import POINTS_KEPT, number
from workbench.views.exporting import file_name


@pytest.fixture(autouse=True)
def unrested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are looked at whenever they are asked."""
    monkeypatch.setattr(curves, "REST_S", 0.0)


def trained(folder: Path, steps: range = range(10), **about: object) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "run.json", run_json(folder.name, **about))
    (folder / "recipe.toml").write_text(f'name = "{folder.name}"\n')
    with TelemetryWriter(folder / "telemetry") as writer:
        for row in train_rows(steps, default_rng(0)):
            writer.emit("train", **row)
    return folder


def view_of(folder: Path, **chosen: object) -> RunsView:
    view = RunsView(Desk(Library(folder), Selection(view="runs", **chosen)))
    while view._waiting:
        view.tick()
    return view


def sources(view: RunsView, name: str = "loss_nats") -> dict[str, object]:
    return dict(view._cards[name]._sources)


def names(view: RunsView) -> list[str]:
    return [row["key"] for row in view._grid.rows]


def test_every_run_is_listed_also_without_one_that_is_open(tmp_path: Path) -> None:
    trained(tmp_path / "well")
    (tmp_path / "ill").mkdir()
    (tmp_path / "ill" / "run.json").write_text('{"format": 99}')
    view = view_of(tmp_path)
    rows = {row["key"]: row for row in view._grid.rows}
    assert "update MegaContext" in rows["ill"]["cells"][0]["under"] and rows["ill"]["chosen"] is None
    assert rows["well"]["chosen"] is False and "No run chosen" in words(view.panel())


def test_an_empty_folder_says_how_to_begin(tmp_path: Path) -> None:
    view = view_of(tmp_path / "none")
    assert view._grid.rows == [] and "tools/demo" in view._grid.nothing


def test_ticks_choose_up_to_eight_runs_each_with_its_colour(tmp_path: Path) -> None:
    for number_of in range(MOST_RUNS + 1):
        trained(tmp_path / f"run{number_of}", range(2))
    view = view_of(tmp_path)
    for number_of in range(MOST_RUNS):
        view._heard({"choose": f"run{number_of}", "on": True})
    view.refresh()
    rows = {row["key"]: row for row in view._grid.rows}
    assert [rows[f"run{at}"]["colour"] for at in range(MOST_RUNS)] == list(SERIES[:MOST_RUNS])
    assert rows[f"run{MOST_RUNS}"]["chosen"] is None
    view._heard({"choose": "run0", "on": False})
    assert view.selection.compare.split("/") == [f"run{at}" for at in range(1, MOST_RUNS)]


def test_a_head_sorts_and_a_word_finds(tmp_path: Path) -> None:
    for name in ("b", "a", "ab"):
        trained(tmp_path / name, range(2))
    view = view_of(tmp_path)
    view._heard({"sort": "-name"})
    view.refresh()
    assert names(view) == ["b", "ab", "a"]
    view.selection.find = "A"
    view.refresh()
    assert names(view) == ["ab", "a"]


def test_a_name_opens_its_run_and_lets_go_of_what_was_selected_in_another(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    view = view_of(tmp_path, run="other", history="16k-0", sample=3, cell="arm=bm25", compare="one")
    view._heard({"open": "one"})
    chosen = view.selection
    assert (chosen.run, chosen.view, chosen.history, chosen.sample, chosen.cell) == (
        "one",
        "results",
        "",
        -1,
        "",
    )
    assert chosen.compare == "one"


def test_two_runs_lie_over_one_another_and_their_recipes_are_laid_beside(tmp_path: Path) -> None:
    trained(tmp_path / "one", range(5))
    trained(tmp_path / "two", range(8))
    view = view_of(tmp_path, compare="one/two")
    assert {name: len(source.data["x"]) for name, source in sources(view).items()} == {"one": 5, "two": 8}
    assert view._recipes.visible
    assert re.search("name.*one.*two", view._differences.object)


def test_all_live_runs_are_followed_without_being_drawn_anew(tmp_path: Path) -> None:
    runs = [live_run(tmp_path / name) for name in ("one", "two")]
    writers = [TelemetryWriter(run / "telemetry", flush_seconds=0) for run in runs]
    for writer in writers:
        writer.emit("train", step=0, stage="base", loss_nats=5.0)
    view = view_of(tmp_path, compare="one/two")
    card, held = view._cards["loss_nats"], sources(view)
    for step in range(1, 4):
        for writer in writers:
            writer.emit("train", step=step, stage="base", loss_nats=5.0 - step)
        view.tick()
    assert view._cards["loss_nats"] is card and sources(view) == held
    for source in held.values():
        assert list(source.data["x"]) == [0, 1, 2, 3] and list(source.data["value"]) == [5, 4, 3, 2]
    assert card.figure.x_range.end >= 3 and card.figure.y_range.start <= 2
    # A metric that was not there joins the others.
    writers[1].emit("train", step=4, stage="lens", lens_loss_nats=1.0)
    view.tick()
    while view._waiting:
        view.tick()
    assert set(view._cards) == {"loss_nats", "lens_loss_nats"}
    for writer in writers:
        writer.close()


def test_a_page_keeps_its_size_however_long_a_run_goes_on(tmp_path: Path) -> None:
    run = live_run(tmp_path / "long")
    with TelemetryWriter(run / "telemetry", max_rows=100_000) as writer:
        writer.emit("train", step=0, stage="base", loss_nats=0.0)
        writer.flush()
        view = view_of(tmp_path, compare="long")
        card, (source,) = view._cards["loss_nats"], sources(view).values()
        for part in range(6):
            for step in range(2_000):
                writer.emit("train", step=2_000 * part + step + 1, stage="base", loss_nats=float(step % 7))
            writer.flush()
            view.tick()
            assert len(source.data["x"]) <= POINTS_KEPT
    assert view._cards["loss_nats"] is card and source.data["x"][-1] == 12_000


def test_axis_and_smoothing_change_the_points_and_not_the_figures(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    view = view_of(tmp_path, compare="one")
    card, (source,) = view._cards["loss_nats"], sources(view).values()
    view.selection.param.update(axis="time", smooth=0)
    view.refresh()
    assert view._cards["loss_nats"] is card and card.figure.below[0].axis_label == "seconds of training"
    assert source.data["x"][3] == pytest.approx(1.2)
    assert list(source.data["smooth"]) == list(source.data["value"])


def test_an_address_with_nonsense_shows_what_there_is(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    view = view_of(tmp_path, compare="one/gone", axis="sideways", curves="nothing", sort="?", smooth=7)
    assert next(iter(view._cards)) == "loss_nats" and "gone" in view._problems.object


def test_the_data_of_one_figure_or_of_all_can_be_taken_away(tmp_path: Path) -> None:
    trained(tmp_path / "one", range(4))
    view = view_of(tmp_path, compare="one")
    assert view._exported()["metric"].n_unique() == len(view._cards) and all(b.disabled for b in view._charts)
    view._figure.value = "loss_nats"
    frame = view._exported()
    assert frame["metric"].unique().to_list() == ["loss_nats"] and len(frame) == 4
    assert view._file() == "megacontext-one-loss_nats-over_step" and not any(b.disabled for b in view._charts)
    written = io.BytesIO()
    frame.write_csv(written)
    written.seek(0)
    assert pl.read_csv(written)["value"].to_list() == frame["value"].to_list()
    view._save("svg")
    assert (
        view._saver.job["file"] == "megacontext-one-loss_nats-over_step" and view._saver.job["kind"] == "svg"
    )


def test_file_names_hold_no_paths_and_numbers_their_digits() -> None:
    assert file_name("../../etc", "a b/c") == "megacontext-etc-a_b_c"
    assert [number(value, "0.[000]") for value in (2.71828, 12_345.6, 0.00012)] == [
        "2.718",
        "12,346",
        "0.00012",
    ]
    assert number(0.5, "0.[0]%") == "50.0 %"
