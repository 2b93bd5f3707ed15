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
    out: Path | None = None
    """Folder of the run; else the first free of runs/eval-language, runs/eval-language-2, ..."""
    json: bool = False
    """Print the results as JSON on standard output instead of tables."""

    def run(self) -> int:
        if self.out is not None and self.out.exists():
            raise ConfigError(
                f"a new run needs a free folder, {self.out} exists; choose another --out or delete it"
            )
        prepared = prepare_language(self.config)
        name = None if self.out is None else self.out.name
        runs = Path("runs") if self.out is None else self.out.parent
        with RunFolder.create(runs, name, self.config, kind="eval-language", seed=self.config.seed) as run:
            run.note(decoder_fingerprint=prepared.decoder.fingerprint)
            results = measure_language(prepared, run)
        answer(results | {"run": str(run.path)}, self.json, lambda: _print(results))
        return 0


def _print(results: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(
        f"{results['genre']}: {results['windows']} windows of {results['segments']} segments, "
        f"{results['gists_per_window']} gists each; headroom {_signed(results['headroom'])} nats a token"
    )
    if not results["readable"]:
        console.print("There is too little headroom for the figures below to mean anything.", style="bold")
    table = plain_table("arm", "nats a token", "minus drop")
    for row in results["arms"]:
        table.add_row(row["arm"], f"{row['nats']:.4f}", _signed(row))
    console.print(table)
    compared = plain_table("gists", "minus drop", "minus mean-cache", "wrong minus right", "of headroom")
    for row in results["compared"]:
        wrong = row.get("wrong_minus_right")
        compared.add_row(
            row["arm"],
            _signed(row["minus_drop"]),
            _signed(row["minus_mean_cache"]),
            "" if wrong is None else _signed(wrong),
            f"{row['of_headroom']:.0%}",
        )
    if results["compared"]:
        console.print(compared)


def _signed(difference: dict[str, float]) -> str:
    return f"{difference['mean']:+.4f} ± {difference['se']:.4f}"
