"""Facts about the notebooks, each at its smallest size: they run, their claims hold, their reports stand alone.

They are exported once, as the command does it; those that train, and every other way to run them, are marked long.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from workbench.notebook_commands import export_orders
from workbench.notebook_runner import Outcome, find_notebooks, run_notebooks

ROOT = Path(__file__).resolve().parents[2]
NUMBER, SHARE = r"-?[\d.]+(?:e-\d+)?", r"(?:1(?:\.0)?|0\.[5-9]\d*)"
KEY_NUMBERS = {
    "01_first_light": rf"'none': {NUMBER}, 'recency': {NUMBER}, 'random': {NUMBER}, 'lensnet': {SHARE}, ",
    "02_text_to_tree": r"'bytes_per_token': [123]\d\.\d+, 'differing': 0\}",
    "03_what_a_gist_keeps": rf"'substitutable': {SHARE}, 'one': [2-6]\.\d+, 'four': [2-6]\.\d+\}}",
    "04_how_lensnet_learns": rf"'nothing': 0\.0, 'which block': {NUMBER}, 'worths': {NUMBER}, ",
    "05_focus_policies": rf"'greedy': {SHARE}, 'stochastic': {SHARE}, 'balanced': {SHARE}, 'exact': 1\.0, ",
    "06_positions": rf"'context': {SHARE}, 'spread': {NUMBER}, 'global': {NUMBER}\}}",
    "07_end_to_end": rf"'gists': {NUMBER}, 'full': -?0\.\d+(?:e-\d+)?, 'drop': {NUMBER}\}}",
    "08_decoding_with_a_memory": rf"'first': {NUMBER}, 'last': {SHARE}, 'positions': \d+\}}",
    "09_flat_cost": r"'ratio': [012]\.\d+, 'oldest': '[2-4]/4'\}",
    "10_megaattention": rf"'gaussian': {NUMBER}, 'worst': {NUMBER}, 'gained': {NUMBER}\}}",
    "11_vanilla_against_mega": r"'ratio': (?:1\.0\d*|0\.[89]\d*)\}",
    "12_results": r"'cells': 1, 'above_recency': [01], 'below_bm25': 0\}",
}
"""What each prints last."""
LONG = {
    "04_how_lensnet_learns",
    "06_positions",
    "07_end_to_end",
    "10_megaattention",
    "11_vanilla_against_mega",
}
"""Those that train, or ask the model many times, whatever their size."""
NAMES = sorted(KEY_NUMBERS)
ALL = [pytest.param(name, marks=pytest.mark.long if name in LONG else pytest.mark.slow) for name in NAMES]


class Exports:
    """The notebooks' reports and the runs behind them, made when the first of their kind is asked for."""

    def __init__(self, folder: Path):
        self.runs, self._pages = folder / "runs", folder / "pages"
        self._outcomes: dict[str, Outcome] = {}

    def __getitem__(self, name: str) -> Outcome:
        if name not in self._outcomes:
            names = [other for other in NAMES if (other in LONG) == (name in LONG)]
            given = ("--tiny", "--runs", str(self.runs))
            orders = export_orders(find_notebooks(names), self._pages, given)
            self._outcomes |= {one.notebook: one for one in run_notebooks(orders, jobs=2)}
        return self._outcomes[name]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exported"))


def run(*command: object) -> subprocess.CompletedProcess[str]:
    given = [str(part) for part in command]
    return subprocess.run(given, capture_output=True, text=True, timeout=600, cwd=ROOT)


def notebook(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.py"


@pytest.mark.parametrize("name", ALL)
def test_its_claim_holds(exported: Exports, name: str) -> None:
    outcome = exported[name]
    assert outcome.state == "done", outcome.message
    assert re.match(r"\{" + KEY_NUMBERS[name], outcome.said), outcome.said


@pytest.mark.parametrize("name", ALL)
def test_its_report_stands_alone_and_says_what_made_it(exported: Exports, name: str) -> None:
    page = Path(exported[name].report or "").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "<marimo" not in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", page)
    for part in ("Question.", "Claim.", "Cost.", "What would prove us wrong.", "Answer", "obsidian/"):
        assert part in page
    assert "digest of code and data" in page and page.count("data-root-id") >= 1


@pytest.mark.parametrize("name", NAMES)
def test_it_is_numbered_links_to_the_vault_and_has_tests_of_its_own(name: str) -> None:
    source = notebook(name).read_text(encoding="utf-8")
    linked = re.findall(r"\]\(\.\./([^)]+)\)", source)
    assert linked and all((ROOT / unquote(path)).is_file() for path in linked), linked
    assert f"# {name[:2]} · " in source
    assert re.search(r"@app\.cell\ndef test_\w+\(", source)


def test_all_pass_marimo_check():
    found = sorted((ROOT / "notebooks").glob("*.py"))
    done = run(sys.executable, "-m", "marimo", "check", "--strict", *found)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_script_refuses_an_argument_that_it_does_not_have() -> None:
    done = run(sys.executable, notebook("01_first_light"), "--tiny", "--budgets", 3)
    assert done.returncode != 0 and "got --budgets; leave it out" in done.stderr


@pytest.mark.slow
def test_a_script_finds_the_run_that_an_export_has_kept(exported: Exports) -> None:
    told = exported["01_first_light"].said
    before = set(exported.runs.iterdir())
    done = run(sys.executable, notebook("01_first_light"), "--", "--tiny", "--runs", exported.runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(told)
    assert set(exported.runs.iterdir()) == before


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_its_own_tests_pass_under_pytest(name: str) -> None:
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", notebook(name))
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_marimo_exports_it_as_a_page_of_its_own(exported: Exports, tmp_path: Path, name: str) -> None:
    page = tmp_path / "page.html"
    given = (notebook(name), "-o", page, "-f", "--", "--tiny", "--runs", exported.runs)
    done = run(sys.executable, "-m", "marimo", "export", "html", *given)
    assert done.returncode == 0, done.stderr
    assert "Answer" in page.read_text(encoding="utf-8")
