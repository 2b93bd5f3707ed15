"""`megacontext workbench`: what may be named, and what is said where it cannot be opened."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serving import ROOT

from megacontext.errors import ConfigError, MegaContextError
from megacontext.tree import Identity, Memory
from workbench.commands import Workbench

PATIENCE_S = 60


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    identity = Identity(tokenizer="a", embedding="b", encoder="c", block_size=32)
    Memory.create(tmp_path / "plain", identity, None).close()
    return tmp_path / "plain"


def test_a_folder_that_is_neither_run_nor_memory_is_a_sentence(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="is neither"):
            Workbench(target=target).run()


def test_a_damaged_memory_is_a_sentence_before_anything_is_served(memory: Path) -> None:
    (memory / "tree-1.mdb").write_bytes(b"rubbish")
    with pytest.raises(MegaContextError):
        Workbench(target=memory).run()


def test_writing_is_for_a_memory_that_is_named(finished_run: Path) -> None:
    for target in (None, finished_run):
        with pytest.raises(ConfigError, match="--write is for a memory"):
            Workbench(target=target, write=True).run()


def test_the_command_says_its_address_as_json_and_ends_with_ctrl_c(memory: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "megacontext", "workbench", str(memory), "--json"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert json.loads(process.stdout.readline())["url"].startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and "Traceback" not in said
