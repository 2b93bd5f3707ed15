"""Views, drawn from recorded frames, without a browser."""

from pathlib import Path

import panel as pn
import pytest
from make_run import make_run, run_json, write_json

from megacontext.errors import ConfigError
from megacontext.telemetry import TelemetryWriter
from workbench.app import Workbench, about, question_labels, run_path, serve
from workbench.state import Selection
from workbench.store import RunStore
from workbench.views import CurvesView, FocusView, OverviewView, TreeView


def settled(store: RunStore, **chosen: object) -> Selection:
    selection = Selection(**chosen)
    selection.settle(store)
    return selection


def words(view: pn.viewable.Viewable) -> str:
    return " ".join(str(pane.object) for pane in view.select(pn.pane.HTML))


def live_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "run.json", run_json(folder.name, status="running", finished=None))
    return folder


@pytest.mark.parametrize("view", [OverviewView, TreeView, FocusView, CurvesView])
def test_a_view_of_a_run_that_has_just_begun_says_what_will_come(tmp_path: Path, view: type) -> None:
    store = RunStore(live_run(tmp_path / "live"))
    said = words(view(store, settled(store)).panel())
    assert "appear" in said or "begin" in said


def test_the_overview_says_what_the_run_concluded(finished_run: Path) -> None:
    store = RunStore(finished_run)
    said = words(OverviewView(store, settled(store)).panel())
    assert store.sentences[0] in said and "95 % interval" in said and "smoke test" in said


def test_the_focus_view_tells_question_answers_and_edits(finished_run: Path) -> None:
    store = RunStore(finished_run)
    said = words(FocusView(store, settled(store, history="book-0", question=2, step=0)).panel())
    assert "The number of the harbour" in said and "superseded, 3 values" in said
    assert "Step 0 of" in said and "expands 1" in said


def test_the_last_step_is_shown_where_none_is_chosen(finished_run: Path) -> None:
    store = RunStore(finished_run)
    said = words(FocusView(store, settled(store)).panel())
    assert "no edits: the final context" in said


def test_an_untraced_question_says_which_to_choose(finished_run: Path) -> None:
    store = RunStore(finished_run)
    selection = settled(store, history="16k-0", question=20)
    for view in (FocusView, TreeView):
        assert "marked “traced”" in words(view(store, selection).panel())


def test_curves_take_in_points_without_being_drawn_anew(tmp_path: Path) -> None:
    run = live_run(tmp_path / "live")
    with TelemetryWriter(run / "telemetry", flush_seconds=0) as writer:
        for step in range(3):
            writer.emit("train", step=step, stage="base", loss_nats=5.0 - step)
        store = RunStore(run)
        view = CurvesView(store, settled(store))
        live = view._lines["Losses"]
        figure, source = live._figure, live._sources["minimised"]
        writer.emit("train", step=9, stage="base", loss_nats=9.0)
        store.refresh()
        view.refresh()
        assert live._figure is figure and list(source.data["step"]) == [0, 1, 2, 9]
        assert figure.x_range.end == 9 and figure.y_range.end >= 9
        # A line that was not there makes the plot be drawn anew.
        writer.emit("train", step=10, stage="lens", lens_loss_nats=1.0)
        store.refresh()
        view.refresh()
        assert live.names == ["minimised", "LensNet"] and live._figure is not figure


def test_text_of_a_run_cannot_speak_html(tmp_path: Path) -> None:
    evil = '<img src=x onerror="hacked()"><script>hacked()</script>\u202e'
    store = RunStore(
        make_run(tmp_path / "evil", questions=2, traced=1, prompt=evil, message=evil, device=evil)
    )
    selection = settled(store)
    panels = [view(store, selection).panel() for view in (OverviewView, TreeView, FocusView, CurvesView)]
    said = " ".join([*(words(panel) for panel in panels), str(about(store))])
    assert "<img" not in said and "<script" not in said and "\u202e" not in said and "&lt;img" in said


def test_question_labels_put_the_traced_ones_first(finished_run: Path) -> None:
    labels = question_labels(RunStore(finished_run), "16k-0")
    assert list(labels.values())[:4] == [0, 1, 2, 3] and "traced" in next(iter(labels))


def test_the_page_of_a_damaged_run_is_a_sentence_and_lives_on(run_copy: Path) -> None:
    page = Workbench(run_copy.parent)
    (run_copy / "run.json").write_text("{")
    page.poll()
    assert page._alert.visible and "run.json" in page._alert.object
    write_json(run_copy / "run.json", run_json("copy", status="interrupted"))
    page.poll()
    assert not page._alert.visible and page.store.state == "interrupted"


def test_a_folder_without_runs_says_how_to_make_one_and_shows_it_when_it_comes(tmp_path: Path) -> None:
    page = Workbench(tmp_path / "runs")
    assert "tools/demo" in page._holders["overview"].objects[0].object
    live_run(tmp_path / "runs" / "first")
    page.poll()
    assert page.store is not None and page.selection.run == "first"


@pytest.mark.parametrize("name", ["../secrets", "a/b", "..", ""])
def test_a_run_is_named_and_not_pathed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="named by its folder"):
        run_path(tmp_path, name)


def test_the_server_refuses_other_addresses_and_unknown_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        serve(tmp_path, address="0.0.0.0")
    with pytest.raises(ConfigError, match="must hold run"):
        serve(tmp_path, "nothing")
    with pytest.raises(ConfigError, match="free port"):
        serve(tmp_path, port=99_999)
