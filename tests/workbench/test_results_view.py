"""The results of a run, in words, and the way from a place in a table to a sample and to its focus steps."""

from pathlib import Path

from desks import desk_on, live_run, words
from make_run import make_run, train_rows
from numpy.random import default_rng

from megacontext.telemetry import TelemetryWriter
from workbench.stores.samples import PAGE_ROWS, conditions_of
from workbench.views import ResultsView


def grids(view: ResultsView) -> str:
    """What the table and the list of samples hold."""
    return str([view._tables._grid.rows, view._samples._grid.rows])


def test_the_results_say_what_the_run_concluded(finished_run: Path) -> None:
    desk = desk_on(finished_run)
    view = ResultsView(desk)
    said = words(view.panel())
    assert desk.run.sentences[0] in said and "95 % intervals" in said and "smoke test" in said
    assert [column["label"] for column in view._tables._grid.columns][:2] == ["cell", "arm"]


def test_a_row_leads_to_its_samples_and_a_sample_to_its_question_by_every_arm(finished_run: Path) -> None:
    desk = desk_on(finished_run)
    view = ResultsView(desk)
    row = next(row for row in view._tables._grid.rows if row["cells"][1]["text"] == "bm25")
    view._tables._heard(row["told"])
    view.refresh()
    assert conditions_of(desk.selection.cell) == {"group": "16k", "arm": "bm25"}
    assert desk.selection.table == "scores"
    assert "48 samples" in view._samples._place.object
    assert {row["cells"][2]["text"] for row in view._samples._grid.rows} == {"bm25"}
    assert [row["current"] for row in view._tables._grid.rows].count(True) == 1
    view._samples._heard(view._samples._grid.rows[0]["told"])
    view.refresh()
    assert view._samples._detail.visible and len(view._samples._beside.rows) == 8
    assert "The number of the lantern" in view._samples._one.object


def test_a_traced_sample_leads_to_focus_and_another_does_not(finished_run: Path) -> None:
    desk = desk_on(finished_run)
    view = ResultsView(desk)
    frame = desk.run.samples.frame
    traced = frame.filter(
        (frame["arm"] == "lensnet") & (frame["question"] == 1) & (frame["history"] == "16k-1")
    )
    untraced = frame.filter((frame["arm"] == "lensnet") & (frame["question"] == 20))
    desk.selection.sample = untraced["sample"][0]
    view.refresh()
    assert not view._samples._focus.visible
    desk.selection.sample = traced["sample"][0]
    view.refresh()
    assert view._samples._focus.visible
    view._samples._open_focus()
    chosen = desk.selection
    assert (chosen.view, chosen.history, chosen.question, chosen.arm) == ("focus", "16k-1", 1, "lensnet")


def test_what_an_address_asks_for_is_shown_and_stays_in_it(finished_run: Path) -> None:
    asked = {
        "table": "by-depth",
        "cell": "group=16k&arm=bm25",
        "verdict": "wrong",
        "search": "lantern",
        "sample": 2,
    }
    desk = desk_on(finished_run, **asked, order="-depth", page=0)
    view = ResultsView(desk)
    view.refresh()
    assert {name: getattr(desk.selection, name) for name in asked} == asked
    assert view._samples._arm.value == "bm25" and view._samples._verdict.value == "wrong"
    assert view._tables._which.value == "by-depth" and view._samples._detail.visible
    depths = [row["cells"][4]["text"] for row in view._samples._grid.rows]
    assert depths == sorted(depths, key=lambda text: -int(text.split()[0]))


def test_filters_are_chosen_by_controls_and_all_let_go_at_once(finished_run: Path) -> None:
    desk = desk_on(finished_run)
    view = ResultsView(desk)
    view._samples._arm.value = "oracle"
    view.refresh()
    view._samples._verdict.value = "right"
    view.refresh()
    view._samples._pages.value = 1
    view.refresh()
    assert (desk.selection.cell, desk.selection.verdict, desk.selection.page) == ("arm=oracle", "right", 1)
    assert view._samples._place.object.count(f"{PAGE_ROWS + 1}–") == 1
    view._samples._clear.param.trigger("clicks")
    view.refresh()
    assert (desk.selection.cell, desk.selection.verdict, desk.selection.page) == ("", "", -1)


def test_nothing_is_sent_when_nothing_differs(finished_run: Path) -> None:
    desk = desk_on(finished_run)
    view = ResultsView(desk)
    sent = []
    for grid in (view._tables._grid, view._samples._grid):
        grid.param.watch(sent.append, ["rows", "columns", "order"])
    for pane in (view._headline, view._figures, view._samples._place):
        pane.param.watch(sent.append, "object")
    desk.selection.node = "1:3"
    view.refresh()
    view.tick()
    assert sent == []


def test_text_of_a_run_reaches_the_lists_as_text_with_nothing_hidden(tmp_path: Path) -> None:
    evil = "<script>hacked()</script>\u202e\x07" + "long " * 1_000
    view = ResultsView(desk_on(make_run(tmp_path / "evil", questions=2, traced=1, prompt=evil), sample=0))
    held = grids(view)
    # The grid draws text, never markup; what would not show is made visible, what is too long is cut.
    assert (
        "<script>hacked()</script>⟨202E⟩⟨0007⟩" in held and "\u202e" not in held and "long " * 200 not in held
    )
    assert "<script>" not in view._samples._one.object and "⟨202E⟩" in view._samples._one.object


def test_a_training_run_shows_its_curves_last_values_and_leads_to_them(tmp_path: Path) -> None:
    run = live_run(tmp_path / "training")
    with TelemetryWriter(run / "telemetry") as writer:
        for row in train_rows(range(8), default_rng(0)):
            writer.emit("train", **row)
    desk = desk_on(run)
    view = ResultsView(desk)
    (cards,) = view._training.objects
    assert "Trained to step 7" in view._headline.object and len(cards) == 1
    view._curve_chosen({"curves": "train"})
    assert (desk.selection.view, desk.selection.curves) == ("runs", "train")
