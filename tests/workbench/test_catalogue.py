"""The list of runs: every folder has its line, and a line says what its run has come to."""

import json
import os
from pathlib import Path

import pytest
from make_run import now, run_json, write_json

from megacontext.telemetry import TelemetryWriter
from workbench.stores.catalogue import Catalogue, CatalogueRow, sorted_rows


def made(folder: Path, results: dict[str, object] | None = None, **about: object) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "run.json", run_json(folder.name, **about))
    if results is not None:
        write_json(folder / "results.json", results)
    return folder


def only(folder: Path) -> CatalogueRow:
    (row,) = Catalogue(folder).rows()
    return row


def test_a_finished_run_says_its_score_and_its_first_conclusion(finished_run: Path) -> None:
    row = next(row for row in Catalogue(finished_run.parent).rows() if row.name == finished_run.name)
    assert row.score_of == "lensnet, 16k, n 48" and 0 < row.score <= 1
    assert row.said.startswith("At 16k tokens") and row.step == 595 and row.loss_nats is not None
    assert row.took_s == 151 and row.state == "done"


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "readable run.json"), ('{"format": 99}', "update MegaContext"), ("[]", "no JSON object")],
)
def test_a_run_that_cannot_be_read_has_its_sentence(tmp_path: Path, content: str, words: str) -> None:
    made(tmp_path / "well")
    (tmp_path / "ill").mkdir()
    (tmp_path / "ill" / "run.json").write_text(content)
    rows = {row.name: row for row in Catalogue(tmp_path).rows()}
    assert rows["ill"].state == "damaged" and words in rows["ill"].said and rows["well"].state == "done"


def test_a_run_whose_process_is_gone_is_dead_and_a_failed_one_says_by_what(tmp_path: Path) -> None:
    made(tmp_path / "gone", status="running", finished=None, pid=2**22 + 1)
    made(tmp_path / "failed", status="failed", message="the loss must be finite")
    rows = {row.name: row for row in Catalogue(tmp_path).rows()}
    assert rows["gone"].state == "dead"
    assert rows["failed"].said == "the loss must be finite"


def test_damaged_results_are_said_while_the_run_stays_listed(tmp_path: Path) -> None:
    (made(tmp_path / "run") / "results.json").write_text('{"rows": [1]}')
    assert only(tmp_path).state == "done" and only(tmp_path).score is None and only(tmp_path).said


def test_without_lensnet_the_best_arm_below_the_oracle_stands_for_the_run(tmp_path: Path) -> None:
    arms = {"recency": 0.1, "bm25": 0.6, "oracle": 0.9}
    rows = [{"history": "4k", "arm": arm, "accuracy": share, "n": 9} for arm, share in arms.items()]
    made(tmp_path / "run", {"rows": rows})
    assert (only(tmp_path).score, only(tmp_path).score_of) == (0.6, "bm25, 4k, n 9")


def test_a_line_follows_its_run(tmp_path: Path) -> None:
    run = made(tmp_path / "run", status="running", finished=None)
    catalogue = Catalogue(tmp_path)
    assert catalogue.rows()[0].step is None
    with TelemetryWriter(run / "telemetry", flush_seconds=0) as writer:
        for step in (1, 2):
            writer.emit("train", step=step, stage="base", loss_nats=5.0 - step)
            assert (catalogue.rows()[0].step, catalogue.rows()[0].loss_nats) == (step, 5.0 - step)
    write_json(run / "run.json", run_json("run", heartbeat=now()))
    assert catalogue.rows()[0].state == "done"
    os.rename(run, tmp_path / "other")
    assert [row.name for row in catalogue.rows()] == ["other"]


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "run", {"sentences": ["well"]})
    catalogue = Catalogue(tmp_path)
    before = catalogue.rows()
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("read again"))
    assert catalogue.rows() == before


def test_rows_are_sorted_both_ways_and_what_is_unknown_comes_last() -> None:
    rows = [
        CatalogueRow(name=name, state="done", score=score)
        for name, score in (("a", 0.5), ("b", None), ("c", 0.9))
    ]
    assert [row.name for row in sorted_rows(rows, "score")] == ["a", "c", "b"]
    assert [row.name for row in sorted_rows(rows, "-score")] == ["c", "a", "b"]
    assert [row.name for row in sorted_rows(rows, "no such column")] == ["a", "b", "c"]
