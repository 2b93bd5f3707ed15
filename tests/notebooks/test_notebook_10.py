"""Facts about notebook 10: it runs as a script, and its key number is asserted on the way."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "10_megaattention.py"
TOY = ("--steps", "4", "--passages", "2")
KEY_NUMBER = re.compile(r"\{'gaussian': ([\d.]+), 'worst': ([\d.]+), 'gained': (-?[\d.]+)\}")
MARIMO = Path(sys.executable).parent / "marimo"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    given = [str(part) for part in command]
    return subprocess.run(given, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.long
def test_it_runs_as_a_script_and_nothing_is_lost():
    done = run(sys.executable, NOTEBOOK, *TOY)
    assert done.returncode == 0, done.stderr
    found = KEY_NUMBER.search(done.stdout)
    assert found, done.stdout
    assert 0.9 < float(found[1]) <= 1.02


def test_it_passes_marimo_check():
    done = run(MARIMO, "check", "--strict", NOTEBOOK)
    assert done.returncode == 0, done.stdout + done.stderr
