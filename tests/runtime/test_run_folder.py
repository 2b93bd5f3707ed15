"""A run folder says what runs and how it ended, whatever ended it."""

import json
import os
import time
import tomllib
from datetime import UTC, datetime

import pytest

from megacontext.errors import ConfigError
from megacontext.runtime import run as run_module
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig
from megacontext.telemetry import read

CONFIG = FocusConfig(budget=64)


def create(runs, name=None, **about):
    return RunFolder.create(runs, name, CONFIG, kind="demo", seed=3, **about)


def state_of(path):
    return json.loads((path / "run.json").read_text(encoding="utf-8"))


def test_a_run_is_readable_from_its_first_moment(tmp_path):
    with create(tmp_path, note="here") as run:
        state = state_of(run.path)
        assert state["status"] == "running" and state["finished"] is None and state["pid"] == os.getpid()
        assert (state["kind"], state["seed"], state["note"]) == ("demo", 3, "here")
        assert datetime.fromisoformat(state["started"]).tzinfo == UTC
        assert tomllib.loads((run.path / "recipe.toml").read_text())["budget"] == 64
    assert state_of(run.path)["status"] == "done"
    assert not list(run.path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(ValueError("too bad"), "failed", "too bad"), (KeyboardInterrupt(), "interrupted", "")],
)
def test_a_run_that_breaks_keeps_what_it_recorded_and_says_why(tmp_path, error, status, message):
    with pytest.raises(type(error)):
        with create(tmp_path) as run:
            run.telemetry.emit("train", step=1, stage="raw")
            run.answer({"arm": "bm25", "answered": "größer"})
            raise error
    state = state_of(run.path)
    assert (state["status"], state["message"]) == (status, message) and state["finished"]
    assert read(run.path / "telemetry", "train").height == 1
    assert json.loads((run.path / "answers.jsonl").read_text(encoding="utf-8")) == {
        "arm": "bm25",
        "answered": "größer",
    }


def test_what_was_flushed_can_be_read_while_the_run_goes_on(tmp_path):
    with create(tmp_path) as run:
        run.telemetry.emit("train", step=1, stage="raw")
        run.answer({"arm": "bm25"})
        run.flush()
        assert read(run.path / "telemetry", "train").height == 1
        assert (run.path / "answers.jsonl").read_text().count("\n") == 1
        run.note(model_fingerprint="abc")
        run.results({"rows": []})
        assert state_of(run.path)["model_fingerprint"] == "abc"
        assert json.loads((run.path / "results.json").read_text()) == {"rows": []}


def test_the_heart_beats_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_HEARTBEAT_SECONDS", 0.01)
    beats = []
    monkeypatch.setattr(RunFolder, "_write_state", lambda self: beats.append(self))
    with create(tmp_path) as run:
        while len(beats) < 4:
            time.sleep(0.005)
    assert set(beats) == {run}


def test_runs_without_a_name_are_numbered(tmp_path):
    assert [create(tmp_path).path.name for _ in range(3)] == ["demo", "demo-2", "demo-3"]
    assert create(tmp_path / "deep" / "er", "mine").path == tmp_path / "deep" / "er" / "mine"


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/absolute"])
def test_a_name_that_is_no_plain_folder_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"one plain folder name, got .*; drop slashes and leading dots"):
        create(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_is_refused_and_its_run_is_left_alone(tmp_path):
    with create(tmp_path, "mine") as run:
        pass
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(
        ConfigError, match=r"needs a free folder, .*mine exists; choose another --name or delete it"
    ):
        create(tmp_path, "mine")
    assert (run.path / "run.json").read_bytes() == before


def test_a_place_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"the run folder .* cannot be made \(Not a directory\)"):
        create(tmp_path / "runs")
    (tmp_path / "demo").write_text("a file with the name of the first run")
    with pytest.raises(ConfigError, match="needs a free folder"):
        create(tmp_path)
