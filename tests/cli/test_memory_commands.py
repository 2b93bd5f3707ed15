"""Every `megacontext memory` command through the installed program's own entry point."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from toys import prose, random_bundle

from megacontext.cli import main
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tree import Memory

PROGRAM = Path(sys.executable).with_name("megacontext")
NOTE = "# Notes\n\nThe crest of Miss Cangwick is a wren.\n"


@pytest.fixture
def place(tmp_path, bundle_folder, monkeypatch):
    """A working folder with a model and a few sources."""
    shutil.copytree(bundle_folder, tmp_path / "model")
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text(prose(1500))
    (tmp_path / "texts" / "deep" / "note.md").write_text(NOTE)
    (tmp_path / "texts" / "deep" / "code.py").write_text("def crest():\n    return 'wren'\n")
    (tmp_path / "texts" / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "texts" / ".hidden").write_text("not for anybody")
    pl.DataFrame({"text": ["first row", None, "second row, Highbury"]}).write_parquet(
        tmp_path / "rows.parquet"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(capsys):
    """Runs a command in this process and gives what it said as JSON."""

    def run(command, *arguments, code=0, model=True):
        capsys.readouterr()
        given = ["memory", command, *map(str, arguments), "--json", *(["--model", "model"] if model else [])]
        assert main(given) == code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


def ingested(told, *more):
    return told("ingest", "m", "texts", "rows.parquet", *more)


def test_ingest_takes_in_folders_code_markdown_and_rows_once(place, told, tokenizer):
    first = ingested(told)
    names = [one["name"] for one in first["documents"]]
    assert names == [
        "texts/a.txt",
        "texts/deep/code.py",
        "texts/deep/note.md",
        "rows.parquet#0",
        "rows.parquet#2",
    ]
    assert {one["outcome"] for one in first["documents"]} == {"added"}
    assert sorted(one["name"] for one in first["skipped"]) == ["rows.parquet", "texts/picture.png"]
    again = ingested(told)
    assert {one["outcome"] for one in again["documents"]} == {"unchanged"}
    assert again["tokens"] == first["tokens"] and again["tokens_added"] == 0
    with Memory.open("m") as memory:
        for number, name in enumerate(names[:3]):
            document = memory.documents[number]
            text = tokenizer.decode(memory.tokens(document.start, document.stop))
            assert (document.name, text) == (name, (place / name).read_text())
        assert memory.documents[2].media_type == "text/markdown"
        assert memory.covers(1, range(memory.num_blocks)).all()


@pytest.mark.parametrize(
    ("on_change", "state"), [("supersede", "superseded"), ("replace", "forgotten"), ("keep", "whole")]
)
def test_a_source_that_changed_becomes_a_new_document(on_change, state, place, told):
    ingested(told)
    (place / "texts" / "deep" / "note.md").write_text(NOTE + "And a heron.\n")
    again = ingested(told, "--on-change", on_change)
    assert [one["name"] for one in again["documents"] if one["outcome"] == "changed"] == [
        "texts/deep/note.md"
    ]
    shown = told("inspect", "m", "--documents", model=False)["document_list"]
    assert shown[2]["state"] == state and shown[5]["name"] == "texts/deep/note.md"
    if on_change == "replace":
        assert told("verify", "m", "--recompute")["ok"]


def test_standard_input_becomes_a_document(place, told, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"said at the door")))
    told("ingest", "m", "-", "--name", "door", "--tags", "speech", "private")
    (document,) = told("inspect", "m", "--documents", model=False)["document_list"]
    assert (document["name"], document["tags"], document["state"]) == ("door", ["speech", "private"], "whole")


def test_tokens_first_and_gists_later(place, told):
    ingested(told, "--no-gists")
    assert told("inspect", "m", model=False)["versions"] == []
    swept = told("refresh", "m")
    assert swept["blocks_swept"] > 50 and swept["active"] == 1
    assert told("verify", "m", "--recompute")["recomputed"] > 50


def test_refresh_writes_beside_and_switches(place, told, tokenizer):
    ingested(told)
    random_bundle(tokenizer, seed=1).save(place / "other")
    other = ["--model", "other"]
    beside = told("refresh", "m", "--mode", "coexist", *other, model=False)
    assert (beside["version"], beside["active"]) == (2, 1) and beside["blocks_swept"] > 0
    done = told("refresh", "m", "--drop-old", *other, model=False)
    assert (done["version"], done["active"], done["dropped"], done["blocks_swept"]) == (2, 2, [1], 0)
    assert told("verify", "m", "--recompute", *other, model=False)["ok"]
    lazy = told("refresh", "m", "--mode", "lazy")
    assert (lazy["version"], lazy["active"], lazy["blocks_swept"]) == (3, 2, 0)


def test_search_finds_and_cites(place, told):
    ingested(told)
    for by, query in (("words", "Cangwick wren"), ("text", "Miss Cangwick is a wren")):
        best = told("search", "m", query, "--by", by)["hits"][0]
        assert any("texts/deep/note.md, tokens " in one for one in best["cited"])
    meant = told("search", "m", "What is the crest?", "--by", "meaning", "--most", "3")["hits"]
    assert len(meant) == 3 and meant[0]["score"] >= meant[2]["score"]
    assert told("search", "m", "nowhere to be found", "--by", "text")["hits"] == []


def test_forget_and_compact_leave_no_trace(place, told, tokenizer):
    ingested(told)
    span = told("forget", "m", "--document", "texts/deep/note.md")
    told("forget", "m", "--tokens", "3", "40")
    sizes = told("compact", "m", model=False)
    assert sizes["bytes_after"] < sizes["bytes_before"]
    assert told("search", "m", "Cangwick", "--by", "text")["hits"] == []
    assert told("verify", "m", "--recompute")["ok"]
    shown = told("inspect", "m", "--documents", model=False)
    assert shown["forgotten_tokens"] == span["stop"] - span["start"] + 37
    assert shown["document_list"][2] | {"name": "", "state": "forgotten"} == shown["document_list"][2]


def test_export_and_import_round_trip(place, told):
    ingested(told)
    files = told("export", "m", "out", model=False)["files"]
    assert {"LOD0.ctx", "LOD1.ctx", "addresses.ctx", "metadata.json"} <= set(files)
    shown = told("import", "out", "back", model=False)
    assert shown["documents"] == 5
    told("export", "back", "again", model=False)
    assert all((place / "out" / name).read_bytes() == (place / "again" / name).read_bytes() for name in files)


def test_verify_and_repair_of_a_damaged_file(place, told, capsys):
    ingested(told)
    file = place / "m" / "tree-1.mdb"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4096] = bytes(4096)
    file.write_bytes(raw)
    assert told("verify", "m", model=False, code=1)["damages"]
    assert main(["memory", "verify", "m"]) == 1
    assert "`megacontext memory repair` mends them" in capsys.readouterr().out
    mended = told("repair", "m")
    assert Path(mended["kept_aside"]).is_file()
    assert told("verify", "m", "--recompute")["ok"]


def test_stats_show_what_a_session_unfolded(place, told, bundle, planted):
    from megacontext.runtime.session import FocusConfig, Session

    encoder = BundleEncoder(bundle)
    with Memory.create("m", encoder.identity(), encoder) as memory:
        memory.append(planted.ids)
        session = Session(bundle, memory, FocusConfig(budget=100), scorer="bm25")
        steps = session.focus(encoder.tokenizer.encode(planted.questions[0].prompt)).steps
    shown = told("stats", "m", model=False)
    assert shown["steps"] == len(steps)
    assert sum(node["times_expanded"] for node in shown["nodes"]) == sum(
        edit.kind == "expand" for step in steps for edit in step.edits
    )
    assert told("stats", "m", "--most", "1", model=False)["nodes"] == shown["nodes"][:1]


MISTAKES = {
    "no source": (["ingest", "m"], "ingesting needs a source"),
    "a missing source": (["ingest", "m", "nowhere"], "nowhere"),
    "a binary source": (["ingest", "m", "texts/picture.png"], "holds zero bytes and looks binary"),
    "a folder that is no memory": (["inspect", "texts"], "a memory is a folder whose file"),
    "nothing to forget": (["forget", "texts"], "needs either --document or --tokens"),
    "an export over a folder": (["import", "texts", "texts"], "metadata.json"),
    "no places": (["search", "m", "x", "--most", "0"], "--most must be at least 1"),
    "a dropped version that is read": (
        ["refresh", "m", "--mode", "lazy", "--drop-old"],
        "needs --mode eager",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence_and_writes_nothing(name, place, capsys):
    arguments, sentence = MISTAKES[name]
    before = set(place.rglob("*"))
    assert main(["memory", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("megacontext: ") and said.err.count("\n") == 1 and sentence in said.err
    assert set(place.rglob("*")) == before and said.out == ""


def test_the_installed_program_ingests_shows_and_refuses(place):
    def run(*arguments):
        return subprocess.run([PROGRAM, "memory", *arguments], capture_output=True, text=True, timeout=300)

    assert run("ingest", "m", "texts/a.txt", "--model", "model").returncode == 0
    shown = run("inspect", "m", "--documents")
    assert shown.returncode == 0 and "texts/a.txt" in shown.stdout and "gists.1" in shown.stdout
    refused = run("search", "m", "?!", "--model", "model")
    assert refused.returncode == 2 and "needs a word" in refused.stderr
    with Memory.open("m", writable=True):
        refused = run("compact", "m")
    assert refused.returncode == 2 and f"being written by process {os.getpid()}" in refused.stderr


def test_an_interrupted_ingest_says_where_it_stopped_and_goes_on(place, told, tokenizer):
    for number in range(60):
        (place / "texts" / f"b{number:02}.txt").write_text(prose(3000) + f"\nend {number}\n")
    process = subprocess.Popen(
        [PROGRAM, "memory", "ingest", "m", "texts", "--model", "model"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (place / "m" / "stamp").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped at token" in error
    stopped = told("inspect", "m", model=False)
    assert told("verify", "m", "--recompute")["ok"]
    done = told("ingest", "m", "texts")
    assert {"added"} <= {one["outcome"] for one in done["documents"]} <= {"added", "unchanged", "resumed"}
    assert 0 < stopped["documents"] < 63
    whole = b"".join(
        (place / one["name"]).read_bytes()
        for one in told("inspect", "m", "--documents", model=False)["document_list"]
    )
    with Memory.open("m") as memory:
        assert tokenizer.decode(memory.tokens(0, memory.num_tokens)).encode() == whole
