"""The report: one file, whole, the same for the same run, with nothing from elsewhere."""

import json
import re
import shutil
from pathlib import Path

import pytest
from make_run import make_run, run_json, write_json

from megacontext.errors import ConfigError
from workbench.report import examples, write_report
from workbench.stores.run import RunStore


@pytest.fixture(scope="module")
def report(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(shutil.copytree(finished_run, tmp_path_factory.mktemp("report") / "finished"))


@pytest.fixture(scope="module")
def html(report: Path) -> str:
    return report.read_text(encoding="utf-8")


def test_it_says_what_matters(html: str) -> None:
    for words in ("LensNet answers 92 %", "95 % interval", "of oracle", "Plain and superseded", "What the model saw",
                  "0123456789abcdef", "max_edits = 4", "Emma (public domain)", "Cost of storing"):  # fmt: skip
        assert words in html, words


def test_it_is_small_and_stands_alone(report: Path, html: str) -> None:
    assert report.stat().st_size < 5_000_000
    assert [path.name for path in report.parent.iterdir() if "tmp" in path.name] == []
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?!data:)", html)


def test_written_again_it_is_the_same_byte_for_byte(report: Path) -> None:
    before = report.read_bytes()
    assert write_report(report.parent).read_bytes() == before


def test_examples_are_of_every_group_and_kind(finished_run: Path) -> None:
    store = RunStore(finished_run)
    shown = [(e.history, store.questions(e.history)["kind"][e.question], e.arm) for e in examples(store)]
    assert shown == [
        ("16k-0", "plain", "lensnet"), ("16k-0", "superseded", "lensnet"),
        ("book-0", "plain", "lensnet"), ("book-0", "superseded", "lensnet"),
    ]  # fmt: skip


def test_text_of_a_run_cannot_speak_html(tmp_path: Path) -> None:
    evil = '</script><img src=x onerror="hacked()">\u202e'
    run = make_run(
        tmp_path / "evil", questions=3, traced=1, prompt=evil, book={"title": evil, "licence": evil}
    )
    html = write_report(run).read_text()
    assert 'onerror="hacked' not in html and "<img src=x" not in html and "\u202e" not in html
    assert "&lt;img src=x" in html


def test_a_run_without_answers_has_a_report_that_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", run_json("empty", status="interrupted"))
    assert "This run has no answers" in write_report(tmp_path).read_text()


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tables_that_a_run_wrote_are_shown_as_text(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "with tables")
    results = json.loads((run / "results.json").read_text())
    table = {"title": "By seed", "note": "Side by side.", "columns": ["cell", "arm", "seed 0"]}
    rows = [["4k", "lensnet", ".905"], ["4k", "<b>bm25", ".540"]]
    write_json(run / "results.json", results | {"tables": [table | {"rows": rows}]})
    html = write_report(run).read_text()
    for words in ("By seed", "Side by side.", "seed 0", ".905", "&lt;b&gt;bm25"):
        assert words in html, words
    assert "<b>bm25" not in html
