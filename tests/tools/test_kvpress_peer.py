"""What is handed to kvpress is what the project's own arms read; without pressure both say the same."""

import contextlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
from frozen_toys import random_reader, save_parts
from toys import write_book

from megacontext.evals.first_light import FirstLightConfig, HistoryConfig, prepare, run_first_light
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig
from megacontext.tasks.facts import FactsConfig

TOOL = Path(__file__).resolve().parents[2] / "tools" / "kvpress_peer.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("kvpress_peer", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run over windows that fit the budget, so that every arm reads them whole."""
    folder = tmp_path_factory.mktemp("peer")
    random_reader(save_parts(folder)).save(folder / "reader")
    config = FirstLightConfig(
        model=str(folder / "reader"),
        book=str(write_book(folder / "book.txt", 3000)),
        arms=("recency",),
        focus=FocusConfig(budget=1200),
        histories=(HistoryConfig(name="window", tokens=500, count=2, facts=FactsConfig(keys=2)),),
        traced_questions=0,
    )
    with RunFolder.create(folder / "runs", "window", config, kind="demo", seed=0) as run:
        run_first_light(prepare(config), run)
    return run.path


class NoPressure:
    """A press that keeps everything."""

    def __init__(self, compression_ratio):
        assert compression_ratio == 0.0

    def __call__(self, model):
        return contextlib.nullcontext()


def test_without_pressure_it_says_what_the_session_says(tool, run, tmp_path, monkeypatch, capsys):
    tool.export(run)
    cases = tmp_path / "cases.jsonl"
    cases.write_text(capsys.readouterr().out)
    fake = types.ModuleType("kvpress")
    fake.KnormPress = NoPressure
    monkeypatch.setitem(sys.modules, "kvpress", fake)
    tool.press(cases, str(run.parents[1] / "model"), ["KnormPress"])
    pressed = tmp_path / "pressed.jsonl"
    pressed.write_text(capsys.readouterr().out)
    own = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    said = [json.loads(line) for line in pressed.read_text().splitlines()]
    assert len(own) == len(said) == 4
    for ours, theirs in zip(own, said, strict=True):
        assert (ours["history"], ours["question"]) == (theirs["history"], theirs["question"])
        assert theirs["answered"].strip() == ours["answered"]
        assert theirs["positions"] == ours["cost_positions"]
    tool.judge(cases, pressed)
    assert capsys.readouterr().out.startswith("KnormPress               n    4")
