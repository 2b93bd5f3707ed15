"""`megacontext notebooks run|export|check [NAME ...]`: the notebooks as a command runs them, one or all."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from megacontext.cli.answers import answer
from megacontext.cli.overrides import Overrides, parsed
from megacontext.errors import ConfigError
from megacontext.progress import Progress
from workbench.notebook_runner import Order, Outcome, find_notebooks, run_notebooks

FAILED = 1
REPORTS = Path("reports")


@dataclass(frozen=True)
class _Options:
    """What the three have in common."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME ...]")] = ()
    """Notebooks by number (02), name (02_text_to_tree) or file; default: all."""
    set: Overrides = ()
    """Arguments of the notebooks, as key=value, e.g. tokens=200000 seed=1"""
    tiny: bool = False
    """Each at the smallest size at which it still says something."""
    jobs: int = 0
    """Notebooks at work at once, on a core each; 0 = as many as there are cores."""
    runs: Path = Path("runs")
    """Folder that holds the runs; what was made before by the same recipe and the same code is found there."""
    anew: bool = False
    """Make every run again."""
    json: bool = False
    """Print what became of each as JSON on standard output."""

    def _arguments(self, runs: Path) -> tuple[str, ...]:
        switches = [name for name in ("tiny", "anew") if getattr(self, name)]
        given = [part for key, value in parsed(self.set).items() for part in (f"--{key}", str(value))]
        return (*given, *(f"--{name}" for name in switches), "--runs", str(runs.resolve()))


@dataclass(frozen=True)
class Run(_Options):
    """Run notebooks; their key numbers are asserted."""

    def run(self) -> int:
        return _finish(
            [
                Order(notebook=path, arguments=self._arguments(self.runs))
                for path in find_notebooks(self.names)
            ],
            self.jobs,
            self.json,
        )


@dataclass(frozen=True)
class Export(_Options):
    """Write each notebook's report: one HTML file that opens from disk, without a network, with lively charts."""

    out: Path = REPORTS
    """Folder of the reports."""

    def run(self) -> int:
        return _finish(
            export_orders(find_notebooks(self.names), self.out, self._arguments(self.runs)),
            self.jobs,
            self.json,
        )


@dataclass(frozen=True)
class Check(_Options):
    """Prove that notebooks work: marimo's own check, then a report of each at its smallest size, of runs made anew.

    Nothing is left behind.
    """

    tiny: bool = True
    anew: bool = True

    def run(self) -> int:
        with tempfile.TemporaryDirectory(prefix="notebooks-") as folder:
            orders = [
                Order(
                    notebook=path, lint=True, report=Path(folder) / f"{path.stem}.html",
                    arguments=self._arguments(Path(folder) / "runs"),
                )
                for path in find_notebooks(self.names)
            ]  # fmt: skip
            return _finish(orders, self.jobs, self.json, kept=False)


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
@dataclass(frozen=True)
class Notebooks:
    """The notebooks: run them, write their reports, prove that they work."""

    what: (
        Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Check, tyro.conf.subcommand("check")]
    )

    def run(self) -> int:
        return self.what.run()


def export_orders(notebooks: list[Path], out: Path, arguments: tuple[str, ...]) -> list[Order]:
    """An order for the report of each into the folder `out`, which is made. Raises ConfigError where it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(
            f"reports need a folder, {out} cannot be one ({problem.strerror}); choose another"
        ) from None
    return [
        Order(notebook=path, report=out.resolve() / f"{path.stem}.html", arguments=arguments)
        for path in notebooks
    ]


def carried_out(orders: list[Order], jobs: int) -> list[Outcome]:
    """Run them while a line or a bar says how far they are. Raises ConfigError for a negative number of jobs."""
    if jobs < 0:
        raise ConfigError(f"jobs must be at least 1, or 0 for all cores, got {jobs}; raise it")
    with Progress("notebooks", len(orders)) as progress:

        def told(ended: Outcome | None, working: list[str]) -> None:
            progress.advance(", ".join(working), steps=int(ended is not None))
            if ended is not None and not sys.stderr.isatty():
                print(f"{ended.notebook}: {ended.state}, {ended.seconds:.1f} s", file=sys.stderr, flush=True)

        return run_notebooks(orders, jobs or _cores(), told)


def _finish(orders: list[Order], jobs: int, as_json: bool, *, kept: bool = True) -> int:
    """Carry out, tell, and return the exit code."""
    outcomes = carried_out(orders, jobs)

    def say() -> None:
        for one in outcomes:
            how = "unchanged" if one.unchanged else f"{one.seconds:6.1f} s"
            print(f"{one.notebook:<32} {one.state:<8} {how:>9}  {one.said}".rstrip())
        for one in outcomes:
            if one.report and kept:
                print(f"report: {one.report}")
            if one.message:
                print(f"{one.notebook} failed:\n{one.message}", file=sys.stderr)

    answer({"notebooks": [asdict(one) for one in outcomes]}, as_json, say)
    return FAILED if any(one.state != "done" for one in outcomes) else 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
