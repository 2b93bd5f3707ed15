"""Facts about notebook 08: it runs as a script, exports as a page, and its key number is asserted on the way."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "08_decoding_with_a_memory.py"
TOY = ("--tokens", "12288", "--turns", "3", "--facts", "4", "--seed", "1")
KEY_NUMBER = re.compile(r"\{'first': ([\d.]+), 'last': ([\d.]+), 'positions': (\d+)\}")
MARIMO = Path(sys.executable).parent / "marimo"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    given = [str(part) for part in command]
    return subprocess.run(given, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.slow
def test_it_runs_as_a_script_and_the_first_pages_stay_in_reach():
    done = run(sys.executable, NOTEBOOK, *TOY)
    assert done.returncode == 0, done.stderr
    found = KEY_NUMBER.search(done.stdout)
    assert found, done.stdout
    assert float(found[2]) >= 0.5 and int(found[3]) <= 256


@pytest.mark.slow
def test_it_exports_as_a_page_with_its_answer(tmp_path):
    page = tmp_path / "page.html"
    done = run(MARIMO, "export", "html", NOTEBOOK, "-o", page, "-f", "--", *TOY)
    assert done.returncode == 0, done.stderr
    assert "no reading had more than" in page.read_text(encoding="utf-8")


def test_it_passes_marimo_check():
    done = run(MARIMO, "check", "--strict", NOTEBOOK)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_scorer_that_is_none_ends_it_with_an_error():
    done = run(sys.executable, NOTEBOOK, *TOY, "--scorer", "clairvoyance")
    assert done.returncode != 0 and "clairvoyance" in done.stderr
