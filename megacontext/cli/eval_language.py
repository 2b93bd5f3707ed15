"""`megacontext eval-language`: what trained cache gists are worth to a frozen decoder, at equal positions."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from megacontext.cli.answers import answer
from megacontext.cli.tables import plain_table
from megacontext.errors import ConfigError
from megacontext.evals.gist_language import LanguageConfig, measure_language, prepare_language
from megacontext.runtime.run import RunFolder


@dataclass(frozen=True)
class EvalLanguage:
    """Score held-out text behind gists, behind as many recent tokens, behind everything, and behind wrong gists.

    Gists come from `megacontext train smollm2-pooled`; name the folders of several seeds and of the constant control.
    """

    config: Annotated[LanguageConfig, tyro.conf.arg(name="")] = field(default_factory=LanguageConfig)
    kept: Path | None = None
    """Folder where gists of segments are kept, so that an interrupted measurement, or another one, reads none twice."""
    resume: Path | None = None
    """Folder of an interrupted run that goes on, with the same options."""
    out: Path | None = None
    """Folder of the run; else the first free of runs/eval-language, runs/eval-language-2, ..."""
    json: bool = False
    """Print the results as JSON on standard output instead of tables."""

    def measure(self) -> tuple[Path, dict[str, Any]]:
        """Do it: the run's folder and what its results.json says. Nothing is written before all is checked."""
        if self.out is not None and self.out.exists():
            raise ConfigError(
                f"a new run needs a free folder, {self.out} exists; choose another --out or delete it"
            )
        if self.out is not None and self.resume is not None:
            raise ConfigError("a run that goes on stays in its folder; leave --out out, or --resume")
        if self.kept is not None and self.kept.exists() and not self.kept.is_dir():
            raise ConfigError(f"--kept must be a folder, {self.kept} is a file; choose another")
        name = None if self.out is None else self.out.name
        runs = Path("runs") if self.out is None else self.out.parent
        going_on = None if self.resume is None else RunFolder.reopen(self.resume, self.config)
        prepared = prepare_language(self.config, self.kept)
        folder = going_on or RunFolder.create(
            runs, name, self.config, kind="eval-language", seed=self.config.seed
        )
        with folder as run:
            title = ", ".join(self.config.documents)
            run.note(
                decoder_fingerprint=prepared.decoder.fingerprint,
                decoder_dtype=prepared.decoder.dtype,
                book={"title": title, "licence": "see data/README.md, or given by the user"},
            )
            return run.path, measure_language(prepared, run)

    def run(self) -> int:
        run, results = self.measure()
        answer(results | {"run": str(run)}, self.json, lambda: print_language(results))
        return 0


def print_language(results: dict[str, Any]) -> None:
    """Sentences and tables of a measurement."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    for sentence in results["sentences"]:
        console.print(sentence)
    for shown in results["tables"]:
        table = plain_table(*shown["columns"])
        for row in shown["rows"]:
            table.add_row(*row)
        console.print(table)
