"""Runs notebooks, each in a process of its own, so many at a time; stops at the first that fails.

An interrupt is handed on to the processes, which leave their run folders readable and their pages unwritten. What a
process said on standard error is kept aside, and shown where it failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from megacontext.config import data_root
from megacontext.errors import ConfigError
from workbench.kept_pages import standing

_POLL_S = 0.05
_PATIENCE_S = 20.0
"""What a process has to end in after an interrupt."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A notebook to be run."""

    notebook: Path
    arguments: tuple[str, ...] = ()
    report: Path | None = None
    """The page to be written; None for none."""
    lint: bool = False
    """Whether marimo's own check comes first."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an order."""

    notebook: str
    state: Literal["done", "failed", "not run"] = "not run"
    seconds: float = 0.0
    report: str | None = None
    title: str = ""
    question: str = ""
    said: str = ""
    """The last line that it printed: its key number."""
    runs: tuple[str, ...] = ()
    message: str = ""
    """Why it failed."""
    unchanged: bool = False
    """Whether its page would have come out as it stood, and was left so."""


def notebooks_folder() -> Path:
    """The folder notebooks/ of the checkout."""
    return data_root().parent / "notebooks"


def find_notebooks(names: Sequence[str]) -> list[Path]:
    """The notebooks of those names (`02`, `02_text_to_tree`, or the path of a file); all numbered ones for none.

    Raises ConfigError for a name that is none of them.
    """
    known = sorted(notebooks_folder().glob("[0-9][0-9]_*.py"))
    if not names:
        return known
    found = []
    for name in names:
        fitting = [path for path in known if name in (path.stem, path.stem[:2])]
        if name.endswith(".py") and Path(name).is_file():
            fitting = [Path(name).resolve()]
        if len(fitting) != 1:
            raise ConfigError(
                f"a notebook is named by its number, its name or its file, got {name!r}; known are "
                f"{', '.join(path.stem for path in known)}"
            )
        found += fitting
    return list(dict.fromkeys(found))


def run_notebooks(
    orders: Sequence[Order], jobs: int, told: Callable[[Outcome | None, list[str]], None] = lambda *_: None
) -> list[Outcome]:
    """What became of each order, in their order. `told` hears of each that ends, and of those at work meanwhile."""
    waiting, outcomes = list(enumerate(orders)), [Outcome(notebook=order.notebook.stem) for order in orders]
    working: dict[int, _Process] = {}
    with tempfile.TemporaryDirectory(prefix="notebooks-") as folder:
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    place, order = waiting.pop(0)
                    if (outcome := _standing(order)) is not None:
                        outcomes[place] = outcome
                        told(outcome, [process.order.notebook.stem for process in working.values()])
                        continue
                    working[place] = _Process(order, Path(folder) / str(place), alone=jobs == 1)
                    told(None, [process.order.notebook.stem for process in working.values()])
                if working:
                    time.sleep(_POLL_S)
                for place, process in list(working.items()):
                    if (outcome := process.outcome()) is None:
                        continue
                    del working[place]
                    outcomes[place] = outcome
                    told(outcome, [other.order.notebook.stem for other in working.values()])
                    if outcome.state == "failed":
                        return outcomes
        finally:
            for process in working.values():
                process.interrupt()
            for process in working.values():
                process.end()
    return outcomes


def _standing(order: Order) -> Outcome | None:
    """Of a page that would come out as it stands; None where there is work to do."""
    if order.report is None or order.lint:
        return None
    told = standing(order.notebook, order.report, order.arguments)
    if told is None:
        return None
    return Outcome(
        notebook=order.notebook.stem, state="done", report=str(order.report), unchanged=True, **asdict(told)
    )


class _Process:
    """An order at work."""

    def __init__(self, order: Order, place: Path, *, alone: bool):
        place.mkdir()
        self.order, self._place, self._began = order, place, time.monotonic()
        self._result, self._said = place / "result.json", (place / "said").open("w+b")
        given = {
            "notebook": str(order.notebook),
            "report": None if order.report is None else str(order.report),
            "result": str(self._result),
            "lint": order.lint,
            "arguments": list(order.arguments),
        }
        command = [sys.executable, "-m", "workbench.notebook_process", json.dumps(given)]
        threads = {} if alone else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self._said, stdin=subprocess.DEVNULL,
            env=os.environ | threads,
        )  # fmt: skip

    def outcome(self) -> Outcome | None:
        """None while it works."""
        if (code := self._process.poll()) is None:
            return None
        about = {"notebook": self.order.notebook.stem, "seconds": round(time.monotonic() - self._began, 1)}
        if code == 0:
            told = json.loads(self._result.read_text(encoding="utf-8"))
            told["runs"] = tuple(told["runs"])
            report = None if self.order.report is None else str(self.order.report)
            return Outcome(**about, state="done", report=report, **told)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return Outcome(**about, state="failed", message="\n".join(lines[-12:]) or f"exit code {code}")

    def interrupt(self) -> None:
        """As Ctrl-C would, where it did not reach the process by itself."""
        if self._process.poll() is None:
            self._process.send_signal(2)

    def end(self) -> None:
        """Wait for it, not for ever."""
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()
