"""`megacontext eval-language`, by its own command line: tables, JSON, and sentences for what cannot be."""

import json
import random

import pytest
import tyro
from models.huggingface.hf_toys import TEXT, save_model

from megacontext.cli import main
from megacontext.evals import gist_language
from workbench.commands import EvalLanguage


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    save_model(folder / "model", initializer_range=0.3)
    for seed, name in enumerate("ab"):
        chosen = random.Random(seed)
        (folder / f"{name}.txt").write_text(
            " ".join(chosen.choice(TEXT.split()) for _ in range(800)), encoding="utf-8"
        )
    return folder


def options(place, *more):
    texts = [str(place / "a.txt"), str(place / "b.txt")]
    sizes = ["--block-size", "8", "--segment-blocks", "12", "--segments", "4", "--distant-blocks", "4"]
    sizes += [
        "--raw-tokens",
        "8",
        "--scored-tokens",
        "16",
        "--precision",
        "float32",
        "--sink",
        "<|im_start|>",
    ]
    return ["eval-language", "--gists", "--base", str(place / "model"), "--documents", *texts, *sizes, *more]


def test_tables_say_what_json_says(place, capsys):
    assert main(options(place, "--out", str(place / "one"), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["segments"] == 4 and {row["arm"] for row in told["arms"]} >= {"full", "drop", "mean-cache"}
    saved = json.loads((place / "one" / "results.json").read_text())
    assert saved["arms"] == told["arms"]
    assert main(options(place, "--out", str(place / "two"))) == 0
    shown = capsys.readouterr().out
    for row in told["arms"]:
        assert f"{row['nats']:.4f}" in shown
    assert "A small sample: a claim needs 200 windows." in shown


def test_a_measurement_ends_in_a_report_with_its_tables(place, capsys):
    command = tyro.cli(EvalLanguage, args=options(place, "--out", str(place / "told"))[1:])
    assert command.run() == 0
    assert f"report: {place / 'told' / 'report.html'}" in capsys.readouterr().out
    html = (place / "told" / "report.html").read_text()
    results = json.loads((place / "told" / "results.json").read_text())
    for words in (
        *results["sentences"][1:],
        "Arms",
        "mean-cache",
        f"{results['arms'][0]['nats']:.4f}",
        "a.txt",
    ):
        assert words in html


@pytest.mark.parametrize("damage", ["", '{"segment": 1, "docum', '{"segment": 77, "drop": 1.0}\n'])
def test_an_interrupted_measurement_goes_on_where_it_stopped(place, capsys, monkeypatch, tmp_path, damage):
    whole = options(place, "--windows", "2", "--out", str(tmp_path / "whole"), "--json")
    assert main(whole) == 0
    expected = json.loads(capsys.readouterr().out)
    stopped = tmp_path / "stopped"
    own, scored = gist_language._segment_rows, []

    def interrupted(prepared, number):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(number)
        return own(prepared, number)

    monkeypatch.setattr(gist_language, "_segment_rows", interrupted)
    assert main(options(place, "--windows", "2", "--out", str(stopped))) == 130
    monkeypatch.setattr(gist_language, "_segment_rows", lambda *a: scored.append(a[1]) or own(*a))
    with (stopped / "answers.jsonl").open("a") as lines:
        lines.write(damage)
    assert main(options(place, "--windows", "2", "--resume", str(stopped), "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(scored) == len(set(scored)) == 4, "no segment is scored twice"
    assert found["arms"] == expected["arms"] and found["windows"] == expected["windows"]
    written = [json.loads(line) for line in (stopped / "answers.jsonl").read_text().splitlines()]
    assert written == [
        json.loads(line) for line in (tmp_path / "whole" / "answers.jsonl").read_text().splitlines()
    ]
    assert main(options(place, "--windows", "3", "--resume", str(stopped))) == 2
    assert "goes on with its own recipe" in capsys.readouterr().err
    assert main(options(place, "--resume", str(stopped), "--out", str(tmp_path / "new"))) == 2
    assert "leave --out out" in capsys.readouterr().err


def test_gists_of_segments_are_kept_where_they_are_asked_for(place, capsys):
    (place / "a-file").write_text("")
    assert main(options(place, "--kept", str(place / "a-file"), "--out", str(place / "nowhere"))) == 2
    assert "--kept must be a folder" in capsys.readouterr().err
    assert main(options(place, "--kept", str(place / "kept"), "--out", str(place / "with"), "--json")) == 0
    assert list((place / "kept").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--segment-blocks", "6"], "must fit"),
        (["--gists", "nowhere"], "holds none that can be read"),
        (["--documents", "no-such-book", "emma"], "a book must be"),
        (["--sink", "no such token"], "sink must be one token"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(more, message, place, capsys):
    assert main(options(place, *more, "--out", str(place / "refused"))) == 2
    assert message in capsys.readouterr().err
    assert not (place / "refused").exists()


def test_a_folder_that_exists_is_not_written_into(place, capsys):
    (place / "taken").mkdir()
    assert main(options(place, "--out", str(place / "taken"))) == 2
    assert "a new run needs a free folder" in capsys.readouterr().err
