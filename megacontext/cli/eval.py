"""`megacontext eval SUITE`: a suite of questions, put to several ways of spending one budget, or one of plain text.

What is done here ends with a run folder and tables. The report of the run is the workbench's, which lies above: its
command of this name adds it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from megacontext.cli.overrides import Overrides, parsed
from megacontext.cli.tables import plain_table
from megacontext.config import from_mapping
from megacontext.errors import ConfigError
from megacontext.evals.asking import Aloud
from megacontext.evals.evaluation import EvalConfig, prepare, run_suite
from megacontext.evals.focus_audit import check_audit, run_audit
from megacontext.evals.language_suites import LANGUAGE_SUITES
from megacontext.evals.language_windows import measured_prose
from megacontext.evals.suites import AUDIT
from megacontext.runtime.run import RunFolder


@dataclass(frozen=True)
class EvalOptions:
    """Measure what a model answers from a history that it cannot read whole, at one budget for all arms.

    - needles: facts at even depths of histories that grow.
    - dense-needles: the same, with as many other needles in 1,000 tokens at every length.
    - passkey: one value, at any depth, in a text that holds no other.
    - facts: planted facts, half of them superseded.
    - mqar: associative recall, up to 1,024 pairs.
    - variables: a value handed on from person to person, among decoys.
    - babi: who and what is where, told between the sentences of a book.
    - counting: how often something was said of a person.
    - focus-audit: scores against measured utilities of single expansions.

    And of plain text, where no question is asked (options: model, book, n, set, out, json):

    - delta-nll: what it costs the next tokens that a distant span is read as gists.
    - gist-kinds: what each kind of gist costs, and what it is worth on one base.
    - substitutability: which spans a gist can stand for, and how different gists are.
    """

    suite: Annotated[str, tyro.conf.Positional]
    """needles, dense-needles, passkey, facts, mqar, variables, babi, counting, focus-audit, delta-nll, gist-kinds or
    substitutability."""
    model: tuple[str, ...] | None = None
    """A folder in data/, or the path of a folder, with trained parts; else tiny. Suites of plain text take several."""
    book: str | None = None
    """Text between what is planted, or the held-out prose: a shipped book, or the path of a UTF-8 text file; else Pride
    and Prejudice."""
    seeds: tuple[int, ...] | None = None
    """Each seed plants other things; else 0 1 2."""
    arms: tuple[str, ...] | None = None
    """none, gist-only, or scorers: ways of choosing the context to compare; else all."""
    budget: int | None = None
    """Key/value positions that the model may attend to, question included; else 256."""
    n: int | None = None
    """Questions of a cell, over all seeds together, at least, or windows of text; else 60, while a claim needs 200."""
    lengths: tuple[int, ...] | None = None
    """Tokens of text of the histories; else the suite's own."""
    variants: tuple[int, ...] | None = None
    """Pairs of mqar, hops of variables, kinds of babi, the highest count of counting; else the suite's own."""
    aloud: Aloud = "no"
    """For a model that says the steps to an answer: all from one look, or again: another look after each."""
    keep_memories: bool = False
    """Leave the memories in the run's folder, to be opened with `megacontext ask` or `inspect`."""
    set: Overrides = ()
    """Changes to a suite of plain text, as key=value, e.g. blocks=6 distances=[64,256]"""
    out: Path | None = None
    """Folder of the run; else the first free of runs/eval-SUITE, runs/eval-SUITE-2, ..."""
    json: bool = False
    """Print the results as JSON on standard output instead of tables."""

    def resolved(self) -> Any:
        """The configuration that these options describe: EvalConfig, or that of a suite of plain text.

        Raises ConfigError.
        """
        return self._text_config() if self.suite in LANGUAGE_SUITES else self._question_config()

    def _question_config(self) -> EvalConfig:
        if self.set:
            raise ConfigError(
                f"set is for suites of plain text, {self.suite} has options of its own; leave it out"
            )
        if self.model is not None and len(self.model) != 1:
            raise ConfigError(
                f"a suite of questions is put to one model, got {len(self.model)}; measure them one by one"
            )
        model = None if self.model is None else self.model[0]
        given = {"model": model, "book": self.book, "seeds": self.seeds, "arms": self.arms, "n": self.n}
        given |= {"lengths": self.lengths, "variants": self.variants}
        table: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        table |= {"suite": self.suite, "keep_memories": self.keep_memories, "aloud": self.aloud}
        if self.budget is not None:
            table["focus"] = {"budget": self.budget}
        return from_mapping(EvalConfig, table, where="eval")

    def evaluate(self) -> tuple[Path, dict[str, Any]]:
        """Do it: the run's folder and what its results.json says. Nothing is written before all is checked."""
        config = self.resolved()
        self._check_out()
        if self.suite in LANGUAGE_SUITES:
            suite = LANGUAGE_SUITES[self.suite]
            texts = suite.prepare(config)
            with self._run_folder(config, seed=config.seed) as run:
                return run.path, suite.run(texts, run)
        prepared = prepare(config)
        audits = config.suite == AUDIT
        if audits:
            check_audit(prepared)
        with self._run_folder(config, seed=config.seeds[0], seeds=list(config.seeds)) as run:
            results = run_audit(prepared, run) if audits else run_suite(prepared, run)
        return run.path, results

    def _text_config(self) -> Any:
        for name in ("seeds", "arms", "budget", "lengths", "variants"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"{name} is for suites of questions, {self.suite} asks none; its sizes are changed with --set"
                )
        if self.keep_memories:
            raise ConfigError(f"{self.suite} keeps nothing in a memory; leave --keep-memories out")
        if self.aloud != "no":
            raise ConfigError(f"{self.suite} asks no questions, so nothing is said; leave --aloud out")
        table: dict[str, Any] = {"suite": self.suite} | parsed(self.set)
        table |= {key: value for key, value in (("models", self.model), ("n", self.n)) if value is not None}
        config = from_mapping(LANGUAGE_SUITES[self.suite].config, table, where="eval")
        if self.book is None:
            return config
        return replace(config, genres=measured_prose(config.genres, self.book))

    def _check_out(self) -> None:
        if self.out is not None and self.out.exists():
            raise ConfigError(
                f"a new run needs a free folder, {self.out} exists; choose another --out or delete it"
            )

    def _run_folder(self, config: Any, **about: Any) -> RunFolder:
        name = None if self.out is None else self.out.name
        runs = Path("runs") if self.out is None else self.out.parent
        return RunFolder.create(runs, name, config, kind=f"eval-{self.suite}", **about)


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
