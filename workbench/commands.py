"""The commands that show something: demo, eval, report, workbench."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from megacontext.cli import eval_language
from megacontext.cli.answers import answer
from megacontext.cli.ask import print_told
from megacontext.cli.eval import EvalOptions, print_results
from megacontext.cli.overrides import Overrides, parsed
from megacontext.cli.tables import results_tables
from megacontext.config import load_recipe
from megacontext.errors import ConfigError
from megacontext.evals.first_light import FirstLightConfig, prepare, run_first_light
from megacontext.runtime.run import RunFolder
from megacontext.tree.data_file import is_memory

_DEMOS = {"tiny": "demo", "smollm2": "demo-smollm2"}
"""Recipes of the demo, by who answers."""


@dataclass(frozen=True)
class Demo:
    """A model answers from what left its window long ago: the whole idea at work on a book."""

    base: Literal["tiny", "smollm2"] = "tiny"
    """Who answers: the tiny model over a novel, or SmolLM2-135M, frozen, over all of Shakespeare's works."""
    recipe: str | None = None
    """A recipe in data/recipes, or the path of one; default: that of the base."""
    book: str | None = None
    """A shipped book, or the path of a UTF-8 text file."""
    budget: int | None = None
    """Key/value positions that the model may attend to, question included."""
    arms: tuple[str, ...] | None = None
    """Which ways of choosing the context to compare."""
    seed: int | None = None
    """Another seed plants other facts."""
    model: str | None = None
    """Folder of trained parts, as `megacontext train` writes it."""
    set: Overrides = ()
    """Changes to the recipe, as key=value with dotted keys, e.g. focus.allocator.threshold=0.3"""
    name: str | None = None
    """Name of the run; default: the first free of demo, demo-2, ..."""
    runs: Path = Path("runs")
    """Folder that holds the runs."""
    serve: bool = True
    """Start the workbench on the run when it is done."""
    port: int = 0
    """Port of the workbench; 0 = a free one."""
    json: bool = False
    """Print the results as JSON on standard output instead of tables."""

    def resolved(self) -> FirstLightConfig:
        """The evaluation that these options describe. Raises ConfigError."""
        given = {"book": self.book, "focus.budget": self.budget, "arms": self.arms, "seed": self.seed}
        given["model"] = self.model
        overrides = {key: value for key, value in given.items() if value is not None}
        overrides |= parsed(self.set)
        return load_recipe(FirstLightConfig, self.recipe or _DEMOS[self.base], overrides)

    def run(self) -> int:
        config = self.resolved()
        prepared = prepare(config)
        with RunFolder.create(self.runs, self.name, config, kind="demo", seed=config.seed) as run:
            results = run_first_light(prepared, run)
        report = write_report(run.path)

        def say() -> None:
            console = Console()
            for table in results_tables(results, config.focus.budget):
                console.print(table)
            for sentence in results["sentences"]:
                console.print(sentence)
            for told in results["about_the_text"]:
                print(f"\n{told['question']}")
                print_told(told)
            console.print(f"report: {report}", soft_wrap=True)

        answer({"run": str(run.path), "report": str(report), "results": results}, self.json, say)
        if self.serve:
            return _serve(self.runs, run.path.name, self.port)
        return 0


@dataclass(frozen=True)
class Eval(EvalOptions):
    __doc__ = EvalOptions.__doc__

    def run(self) -> int:
        run, results = self.evaluate()
        report = write_report(run)

        def say() -> None:
            print_results(results)
            print(f"report: {report}")

        answer({"run": str(run), "report": str(report), "results": results}, self.json, say)
        return 0


@dataclass(frozen=True)
class EvalLanguage(eval_language.EvalLanguage):
    __doc__ = eval_language.EvalLanguage.__doc__

    def run(self) -> int:
        run, results = self.measure()
        report = write_report(run)

        def say() -> None:
            eval_language.print_language(results)
            print(f"report: {report}")

        answer(results | {"run": str(run), "report": str(report)}, self.json, say)
        return 0


@dataclass(frozen=True)
class Report:
    """Write the report of a run or of a notebook, or a site of all: HTML that opens from disk, without a network."""

    what: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN|NOTEBOOK]")] = None
    """The folder of a run, e.g. runs/demo, or a notebook by number, name or file, e.g. 02"""
    site: Path | None = None
    """Write the reports of all runs in --runs and of all notebooks into this folder, with an index."""
    runs: Path = Path("runs")
    """Folder that holds the runs."""
    out: Path = Path("reports")
    """Folder for the report of a notebook; that of a run lies in the run."""
    tiny: bool = False
    """Notebooks at their smallest size."""
    jobs: int = 0
    """Notebooks at work at once, on a core each; 0 = as many as there are cores."""
    json: bool = False
    """Print the path as JSON."""

    def run(self) -> int:
        if (self.what is None) == (self.site is None):
            raise ConfigError(
                f"a report is of one run or notebook, or a --site of all, got {self.what or 'neither'}"
                f"{' and --site' if self.site else ''}; name one of them"
            )
        if self.site is not None:
            from workbench.site import write_site

            return self._told(write_site(self.site, self.runs, tiny=self.tiny, jobs=self.jobs))
        if Path(self.what or "").is_dir():
            return self._told(write_report(Path(self.what or "")))
        from workbench.notebook_commands import Export

        told = Export(
            (self.what or "",), runs=self.runs, out=self.out, tiny=self.tiny, jobs=self.jobs, json=self.json
        )
        return told.run()

    def _told(self, path: Path) -> int:
        answer({"report": str(path)}, self.json, lambda: print(path))
        return 0


@dataclass(frozen=True)
class Workbench:
    """Watch runs and memories in the browser, live or finished. Viewing never writes."""

    target: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN|MEMORY]")] = None
    """The folder of a run or of a memory to open first, e.g. runs/demo; default: the newest run in --runs"""
    runs: Path = Path("runs")
    """Folder that holds the runs."""
    write: bool = False
    """Open MEMORY so that Talk may keep notes in it and forget passages of it, each after a confirmation."""
    model: str | None = None
    """The model that MEMORY was made with, where it is none of those that ship: the path of its folder."""
    address: str = "127.0.0.1"
    """Where to listen. Any but a loopback address wants a --token."""
    token: str = ""
    """What a browser must bring to see anything; at least 12 characters."""
    port: int = 0
    """Port; 0 = a free one."""
    json: bool = False
    """Print the address as JSON on standard output."""

    def run(self) -> int:
        runs, name, memory = self.runs, None, None
        if self.target is not None:
            if (self.target / "run.json").is_file():
                runs, name = self.target.resolve().parent, self.target.resolve().name
            elif is_memory(self.target):
                memory = self.target
            else:
                raise ConfigError(
                    f"the workbench opens a run (a folder with run.json) or a memory, {self.target} is neither; list "
                    f"runs with `ls {self.runs}`, or make one with `megacontext demo`"
                )
        if self.write and memory is None:
            raise ConfigError("--write is for a memory that is named, got none; add its folder")
        return _serve(
            runs, name, self.port, memory=memory, write=self.write, model=self.model, address=self.address,
            token=self.token, as_json=self.json,
        )  # fmt: skip


def write_report(run_folder: Path) -> Path:
    """The report of a run (imports the plotting libraries only now: they take seconds)."""
    from workbench.report import write_report as write

    return write(run_folder)


def _serve(
    runs: Path,
    name: str | None,
    port: int,
    *,
    memory: Path | None = None,
    write: bool = False,
    model: str | None = None,
    address: str = "127.0.0.1",
    token: str = "",
    as_json: bool = False,
) -> int:
    from workbench.server import serve
    from workbench.stores.library import Library

    library = Library(runs, memory, models=(model,) if model else (), writable=write)
    if memory is not None:
        library.memory(library.given_memory)  # what cannot be opened is said here, and not in a browser

    def ready(url: str) -> None:
        if as_json:
            print(json.dumps({"url": url}), flush=True)
        else:
            print(f"workbench: {url} (Ctrl-C to stop)", file=sys.stderr, flush=True)

    serve(library, name, port=port, address=address, token=token, on_ready=ready)
    return 0
