"""`megacontext bench scoring`: what a question costs each scorer, and what its indexes take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from megacontext.bench.scoring import ScoringBenchConfig, bench_scoring
from megacontext.cli.answers import answer
from megacontext.cli.bench.telling import on_one_line, telling
from megacontext.cli.tables import plain_table
from megacontext.runtime.bundle import Bundle, model_folder


@dataclass(frozen=True)
class ScoringBench:
    """The scorers over histories of growing length: milliseconds a question, indexes, memory. Takes minutes."""

    config: ScoringBenchConfig = field(default_factory=ScoringBenchConfig)
    model: str = "tiny"
    """A folder in data/, or the path of a folder, with trained parts."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        told = bench_scoring(self.config, Bundle.load(model_folder(self.model)), telling("scoring"))
        answer(told, self.json, lambda: _print(told))
        return 0


def _print(told: dict[str, Any]) -> None:
    console = Console()
    console.print(on_one_line(told["machine"]))
    names = list(told["lengths"][0]["scorers"])
    for what, title in (("ask_ms", "ms a question"), ("score_ms", "ms a focus step")):
        table = plain_table("tokens", *names)
        for row in told["lengths"]:
            table.add_row(f"{row['tokens']:,}", *(f"{row['scorers'][name][what]:.2f}" for name in names))
        console.print(title, table)
    about = plain_table("tokens", *told["lengths"][0]["index"])
    for row in told["lengths"]:
        about.add_row(f"{row['tokens']:,}", *(f"{value:,.2f}" for value in row["index"].values()))
    console.print("indexes", about)
    console.print({f"{row['tokens']:,}": row["memory"] for row in told["lengths"]})
