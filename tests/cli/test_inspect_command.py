"""`megacontext inspect`: what a model would see of a memory and why, without touching the memory."""

import hashlib
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from toys import ids_of

from megacontext.cli import main
from megacontext.tree import Memory

PROGRAM = Path(sys.executable).with_name("megacontext")


@pytest.fixture
def place(tmp_path, bundle_folder, encoder, monkeypatch):
    shutil.copytree(bundle_folder, tmp_path / "model")
    with Memory.create(tmp_path / "memory", encoder.identity(), encoder) as memory:
        with memory.document("notes.txt"):
            memory.append(ids_of(700))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-lock"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


GIVEN = ["inspect", "memory", "--model", "model", "--budget", "120"]


@pytest.mark.parametrize("layout", ["timeline", "cover-first"])
def test_the_context_is_told_entry_by_entry_and_nothing_is_changed(layout, place, capsys):
    before = digest(place / "memory")
    assert main([*GIVEN, "--context", "--question", "What is it?", "--layout", layout, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tokens"] == 700 and told["cost_positions"] <= told["budget_positions"] == 120
    entries = told["entries"]
    assert entries[0]["start"] == 0 and entries[-1]["stop"] == 700
    assert all(one["stop"] == other["start"] for one, other in pairwise(entries))
    assert sum(entry["cost_positions"] for entry in entries) == told["cost_positions"]
    assert all(entry["why"] for entry in entries) and entries[0]["cited"][0].startswith("notes.txt")
    assert digest(place / "memory") == before


def test_the_text_alone_marks_what_is_folded(place, capsys):
    assert main([*GIVEN, "--context", "--text"]) == 0
    assert "gist of tokens 0-" in capsys.readouterr().out


def test_without_a_context_it_is_the_memory_that_is_shown(place, capsys):
    assert main([*GIVEN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 700


def test_the_installed_program_prints_a_table(place):
    done = subprocess.run([str(PROGRAM), *GIVEN, "--context"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "positions stand for 700 tokens" in done.stdout


MISTAKES = {
    "no memory": (["inspect", "nowhere", "--context", "--model", "model"], "nowhere"),
    "an unknown layout": ([*GIVEN, "--context", "--layout", "spiral"], "unknown layout 'spiral'"),
    "an unknown scorer": ([*GIVEN, "--context", "--scorer", "lensnt"], "did you mean 'lensnet'"),
    "a budget that is too small": ([*GIVEN[:-1], "12", "--context"], "raise focus.budget"),
    "a question without a context": ([*GIVEN, "--question", "Who?"], "got no --context; add it"),
    "a text without a context": ([*GIVEN, "--text"], "got no --context; add it"),
    "a question that leaves no room": (
        [*GIVEN, "--context", "--question", "What is this? " * 40],
        "the budget must hold the prompt of",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_sentence_and_exit_code_2(mistake, place, capsys):
    command, message = MISTAKES[mistake]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


def test_of_an_empty_memory_there_is_nothing_to_see(place, encoder, capsys):
    Memory.create(place / "empty", encoder.identity(), encoder).close()
    assert main(["inspect", "empty", "--model", "model", "--context", "--question", "Who?", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tokens"], told["cost_positions"], told["entries"], told["text"]) == (0, 0, [], "")
