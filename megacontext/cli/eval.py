"""`megacontext eval SUITE`: one suite of questions, put to several ways of spending one budget.

What is done here ends with a run folder and tables. The report of the run is the workbench's, which lies above: its
command of this name adds it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from megacontext.cli.tables import plain_table
from megacontext.config import from_mapping
from megacontext.errors import ConfigError
from megacontext.evals.evaluation import EvalConfig, prepare, run_suite
from megacontext.evals.focus_audit import check_audit, run_audit
from megacontext.evals.suites import AUDIT
from megacontext.runtime.run import RunFolder


@dataclass(frozen=True)
class EvalOptions:
    """Measure what a model answers from a history that it cannot read whole, at one budget for all arms.

    - needles: facts at even depths of histories that grow.
    - facts: planted facts, half of them superseded.
    - mqar: associative recall, up to 1,024 pairs.
    - variables: a value handed on from person to person, among decoys.
    - babi: who and what is where, told between the sentences of a book.
    - counting: how often something was said of a person.
    - focus-audit: scores against measured utilities of single expansions.
    """

    suite: Annotated[str, tyro.conf.Positional]
    """needles, facts, mqar, variables, babi, counting or focus-audit."""
    model: str | None = None
    """A folder in data/, or the path of a folder, with trained parts; else tiny."""
    book: str | None = None
    """Text between what is planted: a shipped book, or the path of a UTF-8 text file; else Pride and Prejudice."""
    seeds: tuple[int, ...] | None = None
    """Each seed plants other things; else 0 1 2."""
    arms: tuple[str, ...] | None = None
    """none, gist-only, or scorers: ways of choosing the context to compare; else all."""
    budget: int | None = None
    """Key/value positions that the model may attend to, question included; else 256."""
    n: int | None = None
    """Questions of a cell, over all seeds together, at least; else 60, while a claim needs 200."""
    lengths: tuple[int, ...] | None = None
    """Tokens of text of the histories; else the suite's own."""
    variants: tuple[int, ...] | None = None
    """Pairs of mqar, hops of variables, kinds of babi, the highest count of counting; else the suite's own."""
    keep_memories: bool = False
    """Leave the memories in the run's folder, to be opened with `megacontext ask` or `inspect`."""
    out: Path | None = None
    """Folder of the run; else the first free of runs/eval-SUITE, runs/eval-SUITE-2, ..."""
    json: bool = False
    """Print the results as JSON on standard output instead of tables."""

    def config(self) -> EvalConfig:
        """The evaluation that these options describe. Raises ConfigError."""
        given = {"model": self.model, "book": self.book, "seeds": self.seeds, "arms": self.arms, "n": self.n}
        given |= {"lengths": self.lengths, "variants": self.variants}
        table: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        table |= {"suite": self.suite, "keep_memories": self.keep_memories}
        if self.budget is not None:
            table["focus"] = {"budget": self.budget}
        return from_mapping(EvalConfig, table, where="eval")

    def evaluate(self) -> tuple[Path, dict[str, Any]]:
        """Do it: the run's folder and what its results.json says. Nothing is written before all is checked."""
        config = self.config()
        if self.out is not None and self.out.exists():
            raise ConfigError(
                f"a new run needs a free folder, {self.out} exists; choose another --out or delete it"
            )
        prepared = prepare(config)
        audits = config.suite == AUDIT
        if audits:
            check_audit(prepared)
        name = None if self.out is None else self.out.name
        runs = Path("runs") if self.out is None else self.out.parent
        with RunFolder.create(
            runs, name, config, kind=f"eval-{config.suite}", seed=config.seeds[0], seeds=list(config.seeds)
        ) as run:
            results = run_audit(prepared, run) if audits else run_suite(prepared, run)
        return run.path, results


def print_results(results: dict[str, Any]) -> None:
    """Tables and sentences for a terminal."""
    # Where no terminal sets the width, tables are as wide as they are, so that no line is broken.
    console = Console(width=None if sys.stdout.isatty() else 200)
    for shown in results["tables"]:
        table = plain_table(*shown["columns"])
        for row in shown["rows"]:
            table.add_row(*row)
        console.print(shown["title"], style="bold")
        console.print(table)
    for sentence in results["sentences"]:
        console.print(sentence, soft_wrap=True)
