"""`megacontext eval-language`, by its own command line: tables, JSON, and sentences for what cannot be."""

import json
import random

import pytest
from models.huggingface.hf_toys import TEXT, save_model

from megacontext.cli import main


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
