"""Facts about notebook 01: it runs as a script, exports as a page, and its key number is asserted on the way."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "01_first_light.py"
TOY = ("--tokens", "6144", "--facts", "12", "--seed", "1")
KEY_NUMBER = re.compile(
    r"\{'none': [\d.]+, 'recency': ([\d.]+), 'random': [\d.]+, 'lensnet': ([\d.]+), 'oracle': "
)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, cwd=ROOT
    )


@pytest.mark.slow
def test_it_runs_as_a_script_and_lensnet_beats_recency(tmp_path):
    done = run(sys.executable, NOTEBOOK, *TOY, "--runs", tmp_path)
    assert done.returncode == 0, done.stderr
    found = KEY_NUMBER.search(done.stdout)
    assert found, done.stdout
    assert float(found[2]) >= float(found[1]) + 0.2
    assert (tmp_path / "first-light" / "results.json").is_file()


@pytest.mark.slow
def test_it_exports_as_a_page_with_its_answer(tmp_path):
    page = tmp_path / "page.html"
    marimo = Path(sys.executable).parent / "marimo"
    done = run(marimo, "export", "html", NOTEBOOK, "-o", page, "-f", "--", *TOY, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "Every reading was within the budget: yes" in page.read_text(encoding="utf-8")


def test_it_passes_marimo_check():
    done = run(Path(sys.executable).parent / "marimo", "check", "--strict", NOTEBOOK)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_mistaken_argument_ends_it_with_an_error(tmp_path):
    done = run(sys.executable, NOTEBOOK, *TOY, "--runs", tmp_path, "--scorer", "clairvoyance")
    assert done.returncode != 0
    assert "clairvoyance" in done.stderr
