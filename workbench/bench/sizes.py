"""How long do the list of runs and the results take with as much as a year of work leaves behind?

    python -m workbench.bench.sizes --json

A folder of many runs, one of them with a hundred thousand answers and half a million rows of telemetry. First what is
shown is held against what was written; then a browser times the first paint of both views and every kind of click, from
the click to the moment when the page shows what it leads to. Memory is the server's, when all is done.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tyro

from megacontext.bench.machine import machine
from megacontext.evals.statistics import wilson
from megacontext.progress import Progress
from megacontext.telemetry import TelemetryWriter
from workbench.bench.chromium import IDLE, chromium, resident_bytes, served
from workbench.stores.run import RunStore

ARMS = ("recency", "bm25", "lensnet", "oracle")
QUESTIONS_A_HISTORY = 100
LARGE, HISTORY_GROUP = "large", "16k"


@dataclass(frozen=True)
class SizesBench:
    """Time the views of runs and results over a large folder."""

    runs: int = 200
    answers: int = 100_000
    rows: int = 500_000
    """Of telemetry, of the large run; the answers are among them."""
    repeats: int = 7
    """Of every click."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        figures = self.measure()
        print(
            json.dumps(figures)
            if self.json
            else "\n".join(f"{name}: {told}" for name, told in figures.items())
        )
        return 0

    def measure(self) -> dict[str, Any]:
        """Milliseconds of first paints and of clicks, and bytes of the server."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            right = make_folder(folder, self)
            began = time.perf_counter()
            _check(folder, self, right)
            opened_ms = 1000 * (time.perf_counter() - began)
            with served(folder) as (url, pid), chromium() as browser:
                figures = _timed(browser, url, self.repeats)
                return (
                    {"open_ms": round(opened_ms)}
                    | figures
                    | {"server_bytes": resident_bytes(pid), **machine()}
                )


def make_folder(folder: Path, sizes: SizesBench) -> int:
    """The runs; how many answers of LensNet in the large one are right."""
    rng = np.random.default_rng(0)
    with Progress("writing runs", sizes.runs) as progress:
        for number in range(sizes.runs - 1):
            _small_run(folder / f"run-{number:03d}", number, rng)
            progress.advance()
        right = _large_run(folder / LARGE, sizes, rng)
        progress.advance()
    return right


def _describe(run: Path, kind: str, minute: int) -> None:
    run.mkdir()
    started = f"2025-01-{1 + minute // 1440:02d}T{minute // 60 % 24:02d}:{minute % 60:02d}:00+00:00"
    about = {"format": 1, "name": run.name, "kind": kind, "status": "done", "started": started, "finished": started,
             "recipe_fingerprint": f"{minute:016x}", "budget_positions": 256}  # fmt: skip
    (run / "run.json").write_text(json.dumps(about))
    (run / "recipe.toml").write_text(f"seed = {minute}\n\n[memory]\nblock_size = 32\n")


def _small_run(run: Path, number: int, rng: np.random.Generator) -> None:
    _describe(run, "train", number)
    steps = np.arange(0, 2_000, 5)
    loss = 3 + 4 * np.exp(-steps / 300) + rng.normal(0, 0.1, len(steps))
    with TelemetryWriter(run / "telemetry") as writer:
        writer.emit_frame("train", pl.DataFrame({
            "step": steps, "stage": ["base"] * len(steps), "wall_s": steps * 0.1, "tokens_seen": steps * 4096,
            "loss_nats": loss, "learning_rate": np.full(len(steps), 0.02),
        }))  # fmt: skip


def _large_run(run: Path, sizes: SizesBench, rng: np.random.Generator) -> int:
    _describe(run, "demo", sizes.runs)
    number = np.arange(sizes.answers)
    question = number // len(ARMS) % QUESTIONS_A_HISTORY
    answers = pl.DataFrame({
        "history": [f"{HISTORY_GROUP}-{at // (len(ARMS) * QUESTIONS_A_HISTORY)}" for at in number],
        "arm": [ARMS[at % len(ARMS)] for at in number], "question": question,
        "kind": np.where(question % 2, "plain", "superseded"), "versions": 1 + question % 3,
        "depth": (question + 0.5) / QUESTIONS_A_HISTORY, "expected": [f"value {at % 997}" for at in number],
        "answered": [f"value {at % 991}" for at in number],
        "correct": rng.random(sizes.answers) < np.array([0.1, 0.6, 0.8, 1.0])[number % len(ARMS)],
        "cost_positions": np.full(sizes.answers, 250), "hit": rng.random(sizes.answers) < 0.5,
    })  # fmt: skip
    lines = answers.with_columns(
        pl.format("What is the number of the lantern in room {}?", "question").alias("prompt")
    )
    lines.write_ndjson(run / "answers.jsonl")
    steps = sizes.rows - sizes.answers
    at = np.arange(steps) % sizes.answers
    focus = answers[at].select("history", "arm", "question").with_columns(
        step=pl.Series(np.arange(steps) // sizes.answers), entries=pl.lit(200), cost_positions=pl.lit(240),
        budget_positions=pl.lit(256), expanded=pl.Series(rng.integers(0, 4, steps)), collapsed=pl.lit(1),
        refused=pl.lit(0), latency_ms=pl.Series(rng.gamma(2, 2, steps)),
    )  # fmt: skip
    with TelemetryWriter(run / "telemetry", max_rows=5_000) as writer:
        for kind, frame in (("answer", answers), ("focus", focus)):
            for part in frame.iter_slices(5_000):
                writer.emit_frame(kind, part)
    rows = []
    for arm, of_arm in answers.group_by("arm", maintain_order=True):
        hits, tried = int(of_arm["correct"].sum()), len(of_arm)
        low, high = wilson(hits, tried)
        rows.append({"history": HISTORY_GROUP, "arm": arm[0], "n": tried, "correct": hits, "accuracy": hits / tried,
                     "low": low, "high": high, "history_tokens": 16_384})  # fmt: skip
    (run / "results.json").write_text(
        json.dumps({"rows": rows, "sentences": ["A run made for a benchmark."]})
    )
    return next(row["correct"] for row in rows if row["arm"] == "lensnet")


def _check(folder: Path, sizes: SizesBench, right: int) -> None:
    """What is timed shows what was written. Raises AssertionError."""
    store = RunStore(folder / LARGE)
    page = store.samples.select({"group": HISTORY_GROUP, "arm": "lensnet"})
    assert len(store.samples.frame) == sizes.answers == len(store.frame("answer"))
    assert len(store.frame("focus")) == sizes.rows - sizes.answers and page.right == right


def _timed(browser: Any, url: str, repeats: int) -> dict[str, Any]:
    """First paints once warm, then clicks; each until the page shows what was asked for."""
    figures: dict[str, Any] = {}
    views = {
        "runs": f"?run={LARGE}&view=runs&compare={LARGE}/run-001",
        "results": f"?run={LARGE}&view=results",
    }
    seen = {"runs": "table[aria-label=Runs] tbody tr", "results": "table[aria-label=Samples] tbody tr"}
    for name, query in views.items():
        paints = []
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            began = time.perf_counter()
            page.goto(url + query)
            page.locator(seen[name]).first.wait_for()
            page.locator("canvas").first.wait_for()
            paints.append(1000 * (time.perf_counter() - began))
            page.wait_for_function(IDLE)
            if len(paints) < 3:
                page.close()
        figures[f"{name}_first_paint_ms"] = [round(one) for one in paints]
        for what, click in (_run_clicks if name == "runs" else _result_clicks)(page).items():
            times = sorted(click(at) for at in range(repeats))
            figures[f"{what}_ms"] = {"p50": round(statistics.median(times)), "max": round(times[-1])}
        page.close()
    return figures


Click = Callable[[int], float]


def _until(page: Any, act: Callable[[], object], condition: str) -> float:
    """Milliseconds from an act to the moment when a condition of the page holds."""
    page.wait_for_timeout(700)  # nothing else is under way
    began = time.perf_counter()
    act()
    page.wait_for_function(condition, polling="raf")
    return 1000 * (time.perf_counter() - began)


def _run_clicks(page: Any) -> dict[str, Click]:
    head = page.get_by_role("button", name="score")

    def sort(at: int) -> float:
        wanted = f"() => new URLSearchParams(location.search).get('sort') == '{'-score' if at % 2 == 0 else 'score'}'"
        return _until(page, head.click, wanted)

    def find(at: int) -> float:
        text = f"run-0{at % 9 + 1}"
        return _until(page, lambda: page.get_by_placeholder("Find a run").fill(text), _rows("Runs", 10))

    def over(at: int) -> float:
        name, label = (("Tokens", "tokens"), ("Step", "step"))[at % 2]
        drawn = ("() => [...Bokeh.documents[0].all_models].some((one) => one.type == 'LinearAxis' && "
                 f"String(one.axis_label).includes('{label}'))")  # fmt: skip
        return _until(page, page.get_by_role("button", name=name, exact=True).click, drawn)

    return {"sort_runs": sort, "find_runs": find, "axis_of_curves": over}


def _result_clicks(page: Any) -> dict[str, Click]:
    def row(at: int) -> float:
        arm = ARMS[at % len(ARMS)]
        rows = page.get_by_role("table", name="Scores").get_by_role("row")
        place = rows.filter(has=page.get_by_text(arm, exact=True)).first
        return _until(page, place.click, _first_arm(arm))

    def search(at: int) -> float:
        text = f"room {at + 11}?"
        return _until(page, lambda: page.get_by_placeholder("Search the text").fill(text), _holds(text))

    def sample(at: int) -> float:
        place = page.get_by_role("table", name="Samples").get_by_role("row").nth(at + 1)
        return _until(page, place.click, "() => new URLSearchParams(location.search).get('sample') !== null")

    return {"row_to_samples": row, "search_samples": search, "open_sample": sample}


_TABLE = """(() => { const find = (root) => { for (const one of root.querySelectorAll('*')) {
    if (one.tagName == 'TABLE' && one.getAttribute('aria-label') == '%s') return one
    if (one.shadowRoot) { const found = find(one.shadowRoot); if (found) return found } } return null }
    return find(document) })()"""


def _rows(table: str, count: int) -> str:
    return f"() => {_TABLE % table}?.querySelectorAll('tbody tr').length == {count}"


def _holds(text: str) -> str:
    return f"() => {_TABLE % 'Samples'}?.querySelector('tbody tr')?.textContent.includes('{text}')"


def _first_arm(arm: str) -> str:
    return f"() => {_TABLE % 'Samples'}?.querySelectorAll('tbody tr td')[2]?.textContent == '{arm}'"


if __name__ == "__main__":
    sys.exit(tyro.cli(SizesBench).run())
