"""How late is an open page on a run that goes on, hour after hour, and what does it cost in memory?

    python -m workbench.bench.live --minutes 60 --json

One process writes a run as training does (a row each tenth of a second, flushed each second), one serves the
workbench, and one browser keeps one page open. Every step's way is timed from its writing to the moment when the page
has it in a line that it draws. A page that skipped a step, or never showed the end, would have failed; lag is told only
of one that has not.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from megacontext.progress import Progress
from megacontext.runtime.run import RunFolder
from workbench.bench.chromium import chromium, resident_bytes, served

ROWS_PER_FLUSH = 10
LAST_STEP = """() => Math.max(-1, ...[...Bokeh.documents[0].all_models]
    .filter((model) => model.type == "ColumnDataSource" && model.data.smooth && model.data.x.length)
    .map((model) => model.data.x[model.data.x.length - 1]))"""
HEAP = "() => performance.memory ? performance.memory.usedJSHeapSize : 0"
PATIENCE_S = 60


@dataclass(frozen=True)
class LiveBench:
    """Keep one page open on a run that goes on, and time what it shows."""

    minutes: float = 2.0
    """How long the run goes on."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        figures = self.measure()
        print(
            json.dumps(figures)
            if self.json
            else "\n".join(f"{name}: {value}" for name, value in figures.items())
        )
        return 0

    def measure(self) -> dict[str, Any]:
        """Lags in ms, and bytes at the first and at the last minute of server and page."""
        with tempfile.TemporaryDirectory() as folder, _Writer(Path(folder), self.minutes * 60) as writer:
            return _watched(Path(folder), writer)


@dataclass
class _Writer:
    """A run that is written by a thread of this process: `written` says when each step was."""

    folder: Path
    seconds: float
    written: dict[int, float] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> _Writer:
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.ended.set()
        self._thread.join()

    def _write(self) -> None:
        began = time.monotonic()
        with RunFolder.create(self.folder, "live", LiveBench(), kind="train", seed=0) as run:
            step = 0
            while time.monotonic() - began < self.seconds and not self.ended.is_set():
                for _ in range(ROWS_PER_FLUSH):
                    step += 1
                    run.telemetry.emit(
                        "train", step=step, stage="base", wall_s=time.monotonic() - began, tokens_seen=step * 4096,
                        loss_nats=4.0 + 5.0 / step, tokens_per_s=40_000.0,
                    )  # fmt: skip
                run.flush()
                self.written[step] = time.monotonic()
                time.sleep(max(0.0, began + step / ROWS_PER_FLUSH - time.monotonic()))
        self.ended.set()


def _watched(folder: Path, writer: _Writer) -> dict[str, Any]:
    with served(folder) as (url, server), chromium() as browser:
        page = browser.new_page()
        page.goto(f"{url}?run=live&view=runs")
        page.wait_for_function(f"() => window.Bokeh && Bokeh.documents.length && ({LAST_STEP})() > 0")
        return _timed(page, server, writer)


def _timed(page: Any, server: int, writer: _Writer) -> dict[str, Any]:
    shown = page.evaluate(LAST_STEP)
    lags_ms: list[float] = []
    sizes: list[tuple[int, int]] = []
    began = measured = time.monotonic()
    deadline = float("inf")
    with Progress("one page on a live run", int(writer.seconds)) as progress:
        while True:
            now, last = time.monotonic(), page.evaluate(LAST_STEP)
            lags_ms += [
                1000 * (now - at) for step, at in sorted(writer.written.items()) if shown < step <= last
            ]
            shown = max(shown, last)
            if writer.ended.is_set():
                deadline = min(deadline, now + PATIENCE_S)
                if shown == max(writer.written):
                    break
                if now > deadline:
                    raise AssertionError(f"the page never showed step {max(writer.written)}, only {shown}")
            if now - measured >= 30 or not sizes:
                measured = now
                sizes.append((resident_bytes(server), page.evaluate(HEAP)))
            progress.set(min(int(now - began), int(writer.seconds)))
            page.wait_for_timeout(50)
    sizes.append((resident_bytes(server), page.evaluate(HEAP)))
    lags_ms.sort()
    return {
        "steps": max(writer.written),
        "flushes_timed": len(lags_ms),
        "minutes": round((time.monotonic() - began) / 60, 2),
        "lag_ms_p50": round(statistics.median(lags_ms)),
        "lag_ms_p95": round(lags_ms[int(0.95 * (len(lags_ms) - 1))]),
        "lag_ms_max": round(lags_ms[-1]),
        "server_bytes": [size for size, _ in sizes],
        "page_heap_bytes": [size for _, size in sizes],
    }


if __name__ == "__main__":
    sys.exit(tyro.cli(LiveBench).run())
