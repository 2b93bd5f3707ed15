"""What a user gets wrong becomes one sentence and exit code 2, and leaves nothing behind."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import random_bundle, write_book

from megacontext.cli import main
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tree import Memory

PROGRAM = Path(sys.executable).with_name("megacontext")


@pytest.fixture
def place(tmp_path, bundle_folder, monkeypatch):
    """A working folder with a model, a book, a few files that are none, and a memory."""
    shutil.copytree(bundle_folder, tmp_path / "model")
    shutil.copytree(bundle_folder, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "nothing").mkdir()
    write_book(tmp_path / "book.txt", 4000)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\x00\x01")
    (tmp_path / "latin.txt").write_bytes("Bär".encode("latin-1") * 100)
    monkeypatch.chdir(tmp_path)
    return tmp_path


DEMO = ("demo", "--no-serve", "--model", "model", "--book", "book.txt")
SMALL = ("--set", 'histories=[{name="all"}]', "focus.budget=120")
MISTAKES = {
    "an unknown recipe": (["demo", "--recipe", "dmo"], "unknown recipe 'dmo'; did you mean 'demo'? known are"),
    "a recipe that is missing": (["demo", "--recipe", "no/recipe.toml"], "a recipe must be a readable file"),
    "an unknown key": ([*DEMO, "--set", "focus.buget=64"], "unknown key 'focus.buget'; did you mean 'budget'? allowed"),
    "a wrong type": ([*DEMO, "--set", "focus.budget=many"], "focus.budget must be an integer, got the text 'many'"),
    "the first of two sets": ([*DEMO, "--set", "focus.buget=64", "--set", "seed=1"], "unknown key 'focus.buget'"),
    "an override without a value": ([*DEMO, "--set", "focus.budget"], "an override must read key=value"),
    "an unknown scorer": ([*DEMO, "--arms", "bm25", "lensnt"], "unknown scorer 'lensnt'; did you mean 'lensnet'?"),
    "a budget below one block": ([*DEMO, "--budget", "7"], "budget must hold one block of 8 tokens, got 7; raise"),
    "a budget below the questions": ([*DEMO, *SMALL, "focus.budget=20"], "the budget must hold the prompt"),
    "a negative seed": ([*DEMO, "--seed", "-1"], "seed must not be negative, got -1"),
    "a book that is too short": (list(DEMO), "the book must have 16,384 tokens for histories '16k', book.txt has"),
    "a missing book": ([*DEMO, "--book", "no.txt"], "a book must be a readable file, no.txt is not"),
    "an unknown book": ([*DEMO, "--book", "ema"], "a book must be a text file or one of emma"),
    "an empty book": ([*DEMO, "--book", "empty.txt"], "a book must hold text, empty.txt is empty; give another"),
    "a binary book": ([*DEMO, "--book", "binary.txt"], "a book must be text, binary.txt holds zero bytes"),
    "an undecodable book": ([*DEMO, "--book", "latin.txt"], "a book must be UTF-8 text, latin.txt is not at byte 1"),
    "a folder as book": ([*DEMO, "--book", "./nothing"], "a book must be a readable file, nothing is not"),
    "a missing model": ([*DEMO, "--model", "no-model"], "a model folder must hold model.json, no-model does not"),
    "an empty model folder": ([*DEMO, "--model", "nothing"], "must hold model.json, nothing does not"),
    "a file as model": ([*DEMO, "--model", "book.txt"], "must hold model.json, book.txt does not"),
    "a broken model": ([*DEMO, "--model", "broken"], "must have the checksum"),
    "an unknown training recipe": (["train", "tny"], "unknown recipe 'tny'; did you mean 'tiny'?"),
    "an unknown training key": (["train", "tiny", "--set", "bases=1"], "unknown key 'bases'; did you mean"),
    "a training book that is missing": (["train", "tiny", "--set", 'books=["no.txt"]'], "no.txt is not"),
    "a memory that is missing": (["ask", "no-memory", "Who?", "--model", "model"], "a memory is a folder whose file"),
    "a file as memory": (["ask", "book.txt", "Who?", "--model", "model"], "a memory is a folder whose file"),
}  # fmt: skip


def says_one_sentence(error: str) -> str:
    """The sentence that was printed, if it was one line and nothing else."""
    assert error.startswith("megacontext: ") and error.endswith("\n") and error.count("\n") == 1
    assert "Traceback" not in error
    return error.removeprefix("megacontext: ").rstrip("\n")


def left_behind(place, before):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path not in before)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence_and_nothing_is_written(place, capsys, name):
    arguments, sentence = MISTAKES[name]
    before = set(place.rglob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert sentence in says_one_sentence(said.err) and said.out == ""
    assert left_behind(place, before) == []


@pytest.mark.parametrize("name", ["an unknown key", "a binary book", "a broken model"])
def test_the_installed_program_says_the_same_and_exits_with_two(place, name):
    arguments, sentence = MISTAKES[name]
    before = set(place.rglob("*"))
    ended = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2 and ended.stdout == ""
    assert sentence in says_one_sentence(ended.stderr)
    assert left_behind(place, before) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("taken", "a new run needs a free folder, runs/taken exists; choose another --name or delete it"),
        ("a/b", "a run's name must be one plain folder name, got 'a/b'; drop slashes and leading dots"),
        ("..", "a run's name must be one plain folder name, got '..'"),
        ("", "a run's name must be one plain folder name, got ''"),
    ],
)
def test_a_run_name_that_cannot_be_used_is_refused(place, capsys, name, sentence):
    (place / "runs" / "taken").mkdir(parents=True)
    before = set(place.rglob("*"))
    assert main([*DEMO, *SMALL, "--name", name]) == 2
    assert sentence in says_one_sentence(capsys.readouterr().err)
    assert left_behind(place, before) == []


def test_runs_that_is_a_file_is_refused(place, capsys):
    assert main([*DEMO, *SMALL, "--runs", "book.txt"]) == 2
    assert "cannot be made (Not a directory)" in says_one_sentence(capsys.readouterr().err)


# Asking a memory.


@pytest.fixture
def remembered(place, encoder, planted):
    """The planted history as a memory on disk, made with the model of `place`."""
    with Memory.create(place / "memory", encoder.identity(), encoder) as memory:
        memory.append(planted.ids)
    return place


ASK = ("ask", "memory", "What is the crest?", "--model", "model", "--budget", "100")


def test_a_memory_answers_and_cites_what_was_read(remembered, capsys, memory, tokenizer):
    held = {
        path: path.read_bytes() for path in (remembered / "memory").iterdir() if path.name == "tree-1.mdb"
    }
    assert main([*ASK, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["positions"] <= 100 and told["tokens"] == memory.num_tokens
    for passage in told["passages"]:
        assert passage["text"] == tokenizer.decode(memory.tokens(passage["start"], passage["stop"]))
    assert main(ASK) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"{told['positions']} positions stood for {memory.num_tokens:,} tokens", shown)
    assert all(path.read_bytes() == content for path, content in held.items()), "asking never writes"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--budget", "7"], "budget must hold one block of 8 tokens, got 7; raise focus.budget"),
        (["--budget", "20"], "the budget must hold the prompt of"),
        (["--scorer", "bm52"], "unknown scorer 'bm52'; did you mean 'bm25'?"),
        (["--model", "broken"], "must have the checksum"),
    ],
)
def test_a_wrong_question_gets_one_sentence(remembered, capsys, change, sentence):
    assert main([*ASK, *change]) == 2
    assert sentence in says_one_sentence(capsys.readouterr().err)


def test_a_memory_made_with_another_model_refuses_to_answer(remembered, capsys, tokenizer):
    random_bundle(tokenizer, seed=1).save(remembered / "other")
    assert main([*ASK, "--model", "other"]) == 2
    said = says_one_sentence(capsys.readouterr().err)
    assert (
        "a memory opens only with the parts that it was made with" in said and "ingest the text again" in said
    )
    assert BundleEncoder(random_bundle(tokenizer, seed=1)).fingerprint in said


def test_a_damaged_memory_refuses_to_answer(remembered, capsys):
    path = remembered / "memory" / "tree-1.mdb"
    path.write_bytes(b"no database" * 1000)
    assert main(ASK) == 2
    assert "a memory's data file must be LMDB's" in says_one_sentence(capsys.readouterr().err)


def test_an_interrupt_ends_with_130_and_says_so(place, capsys, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.commands.prepare", interrupted)
    assert main(list(DEMO)) == 130
    assert "interrupted" in says_one_sentence(capsys.readouterr().err)
