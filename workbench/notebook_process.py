"""A notebook in a process of its own: `python -m workbench.notebook_process JSON`, as `notebook_runner` starts it.

One process a notebook keeps their torch states, folders and failures apart, and lets several cores work. The JSON
object says `notebook`, `report` (the page to be written, or null), `result` (a JSON file for title, question and what
the notebook printed last), `lint` (whether marimo's own check comes first) and `arguments`. A cell that raises ends the
process with 1 and its error on standard error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from megacontext.errors import MegaContextError
from megacontext.runtime.run import write_json
from workbench.kept_pages import Told, made_from
from workbench.notebook_report import execute, render
from workbench.sheet import write_whole


def main(notebook: str, report: str | None, result: str, lint: bool, arguments: list[str]) -> int:
    """Run it, write what was asked for, whole or not at all; the exit code."""
    if lint:
        checked = subprocess.run(
            [sys.executable, "-m", "marimo", "check", "--strict", notebook], stdout=sys.stderr
        )
        if checked.returncode:
            return checked.returncode
    sys.argv = [notebook, *arguments]  # where marimo reads a notebook's arguments
    printed = _Last(sys.stdout)
    sys.stdout = printed  # type: ignore[assignment]
    try:
        executed = execute(Path(notebook))
        runs = executed.showing.runs
        told = Told(executed.title, executed.question, printed.line, tuple(str(run.path) for run in runs))
        if report is not None:
            page = Path(report)
            origin = made_from(Path(notebook), page, arguments, told, runs)
            write_whole(page, render(executed, page.parent, origin))
    except MegaContextError as problem:
        print(problem, file=sys.stderr)
        return 1
    finally:
        sys.stdout = printed.stream
    write_json(Path(result), asdict(told))
    return 0


class _Last:
    """A text stream that passes all on and remembers the last line that was not empty."""

    def __init__(self, stream: TextIO):
        self.stream, self.line, self._rest = stream, "", ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self.line = next((line for line in reversed(lines) if line.strip()), self.line)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
