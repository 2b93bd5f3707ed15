"""Facts about the notebooks, each at its smallest size, in all the ways in which one is run.

As a script, under pytest, exported, and in a browser: `tools/test -m long tests/notebooks`, some minutes. Each is
exported first, and what comes after finds the export's run, as a reader's second look does.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote
from urllib.request import urlopen

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
    "10_megaattention": rf"'dense': {NUMBER}, 'window': {NUMBER}, 'gaussian': {NUMBER}, ",
    "11_vanilla_against_mega": r"'ratio': (?:1\.0\d*|0\.[89]\d*)\}",
    "12_results": r"'cells': 1, 'above_recency': [01], 'below_bm25': 0\}",
}
"""What each prints last."""
NAMES = sorted(KEY_NUMBERS)
EACH = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) for name in NAMES])
PATIENCE_MS = 240_000


class Exports:
    """The notebooks' reports and the runs behind them, each made when it is first asked for."""

    def __init__(self, folder: Path):
        self.runs, self._pages = folder / "runs", folder / "pages"
        self._outcomes: dict[str, Outcome] = {}

    def __getitem__(self, name: str) -> Outcome:
        if name not in self._outcomes:
            given = ("--tiny", "--runs", str(self.runs))
            orders = export_orders(find_notebooks([name]), self._pages, given)
            (self._outcomes[name],) = run_notebooks(orders, jobs=1)
        return self._outcomes[name]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exported"))


def alone() -> dict[str, str]:
    """An environment that does not say that a test is at work: marimo and pytest go by it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    given = [str(part) for part in command]
    return subprocess.run(given, capture_output=True, text=True, timeout=600, cwd=ROOT, env=alone())


def notebook(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.py"


@EACH
def test_its_claim_holds(exported: Exports, name: str) -> None:
    outcome = exported[name]
    assert outcome.state == "done", outcome.message
    assert re.match(r"\{" + KEY_NUMBERS[name], outcome.said), outcome.said


@EACH
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


@EACH
def test_as_a_script_it_finds_the_run_that_the_export_has_kept(exported: Exports, name: str) -> None:
    told = exported[name].said
    before = sorted(exported.runs.glob("*"))
    done = run(sys.executable, notebook(name), "--", "--tiny", "--runs", exported.runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(told)
    assert sorted(exported.runs.glob("*")) == before


@EACH
def test_its_own_tests_pass_under_pytest(name: str) -> None:
    done = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", notebook(name))
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


@contextmanager
def opened(name: str, runs: Path) -> Iterator[str]:
    """The address at which marimo shows it, without its code, as a reader has it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--no-token", "--port", str(port)]
    given = [notebook(name), "--", "--tiny", "--runs", runs]
    process = subprocess.Popen(
        [*command, *map(str, given)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=alone(),
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urlopen(f"{url}/health", timeout=5).close()
                break
            except URLError:
                assert process.poll() is None, "marimo has ended"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


@EACH
def test_in_a_browser_it_waits_for_its_form_and_answers(exported: Exports, browser, name: str) -> None:
    assert exported[name].state == "done"
    (sends,) = re.findall(r'submit_button_label="([^"]+)"', notebook(name).read_text(encoding="utf-8"))
    with opened(name, exported.runs) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        page.get_by_text("Question.", exact=True).wait_for(timeout=PATIENCE_MS)
        page.get_by_text("Send the form to begin.").wait_for(timeout=PATIENCE_MS)
        answer = page.get_by_role("heading", name="Answer", exact=True)
        assert answer.count() == 0
        page.get_by_role("button", name=sends).click()
        answer.wait_for(timeout=PATIENCE_MS)
        assert page.locator(".marimo-error").count() == 0 and said == []
        page.close()
