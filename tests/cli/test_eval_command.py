"""`megacontext eval` from end to end at toy size, and what a user gets wrong."""

import json
import shutil

import pytest
from toys import write_book

from megacontext.cli import main

TOY = ("--model", "model", "--book", "book.txt", "--budget", "160", "--n", "2", "--seeds", "0", "3")


@pytest.fixture
def place(tmp_path, bundle_folder, monkeypatch):
    """A working folder with a model and a book."""
    shutil.copytree(bundle_folder, tmp_path / "model")
    write_book(tmp_path / "book.txt", 9000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_suite_ends_with_tables_and_a_report(place, capsys):
    arms = ("--arms", "gist-only", "bm25", "lensnet", "oracle")
    assert main(["eval", "facts", *TOY, "--lengths", "500", *arms]) == 0
    shown = capsys.readouterr().out
    for words in ("Scores", "Costs", "By seed", "By depth", "By kind", "gist-only", "disk bytes a token"):
        assert words in shown
    assert "A smoke test: a claim needs 200 questions." in shown
    assert "report: runs/eval-facts/report.html" in shown
    html = (place / "runs" / "eval-facts" / "report.html").read_text()
    for words in ("By depth", "Plain and superseded", "What the model saw", "gist-only", "suite = "):
        assert words in html


def test_json_names_the_run_and_holds_the_results(place, capsys):
    given = [
        "--variants",
        "3",
        "9",
        "--arms",
        "none",
        "oracle",
        "--out",
        "here/mine",
        "--keep-memories",
        "--json",
    ]
    assert main(["eval", "mqar", *TOY, *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == "here/mine" and told["report"] == "here/mine/report.html"
    assert told["results"] == json.loads((place / "here" / "mine" / "results.json").read_text())
    assert [row["history"] for row in told["results"]["rows"]] == ["3pairs", "3pairs", "9pairs", "9pairs"]
    assert (place / "here" / "mine" / "memory" / "9pairs-0").is_dir()
    html = (place / "here" / "mine" / "report.html").read_text()
    assert "Retention" in html and "Plain and superseded" not in html


def test_an_audit_has_its_own_tables_and_a_report(place, capsys):
    assert (
        main(["eval", "focus-audit", *TOY, "--seeds", "0", "--lengths", "300", "--arms", "bm25", "lensnet"])
        == 0
    )
    shown = capsys.readouterr().out
    assert (
        "What opening one block saves" in shown
        and "Scores against utilities" in shown
        and "What the chosen context is worth" in shown
    )
    html = (place / "runs" / "eval-focus-audit" / "report.html").read_text()
    assert "rank correlation" in html and "This run has no answers" not in html


MISTAKES = {
    "an unknown suite": (["needels", *TOY], "unknown suite 'needels'; did you mean 'needles'? known are needles"),
    "an unknown arm": (["needles", *TOY, "--arms", "bm52"], "unknown scorer 'bm52'; did you mean 'bm25'?"),
    "an arm twice": (["needles", *TOY, "--arms", "bm25", "bm25"], "every arm must be named once, bm25 is more often"),
    "a negative seed": (["needles", *TOY, "--seeds", "-1"], "seeds must not be negative, got -1"),
    "a length of nothing": (["needles", *TOY, "--lengths", "0"], "a history has at least 1 token of text"),
    "a length beyond the text": (["needles", *TOY, "--lengths", "90000"], "the text must have 90,000 tokens"),
    "lengths where there are none": (["mqar", *TOY, "--lengths", "500"], "this suite has no lengths, got [500]"),
    "variants where there are none": (["facts", *TOY, "--variants", "2"], "this suite has no variants, got [2]"),
    "a fourth kind of babi": (["babi", *TOY, "--variants", "4"], "babi has the kinds 1, 2 and 3, got 4"),
    "a budget below one block": (["facts", *TOY, "--lengths", "500", "--budget", "7"], "must hold one block of 8"),
    "a budget below the prompt": (["facts", *TOY, "--lengths", "500", "--budget", "25"], "the budget must hold the"),
    "no questions": (["needles", *TOY, "--n", "0"], "n must be at least 1 question a cell, got 0"),
    "an audit of no scorer": (["focus-audit", *TOY, "--lengths", "500", "--arms", "none"], "an audit is of scorers"),
    "an audit of a short history": (["focus-audit", *TOY, "--lengths", "300", "--budget", "9000"], "must be longer"),
    "a missing model": (["needles", *TOY, "--model", "no-model"], "a model folder must hold model.json"),
    "a missing book": (["needles", *TOY, "--book", "no.txt"], "a book must be a readable file"),
    "a folder that exists": (["needles", *TOY, "--out", "model"], "model exists; choose another --out or delete it"),
    "no name for the folder": (["facts", *TOY, "--lengths", "500", "--out", "new/.."], "new/.. exists"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence_and_nothing_is_written(place, capsys, name):
    arguments, sentence = MISTAKES[name]
    if name == "no name for the folder":
        (place / "new").mkdir()
    before = set(place.rglob("*"))
    assert main(["eval", *arguments]) == 2
    said = capsys.readouterr()
    *progress, error = said.err.splitlines()
    assert sentence in error and error.startswith("megacontext: ") and said.out == ""
    assert all(line.startswith("planting") for line in progress)
    assert set(place.rglob("*")) == before
