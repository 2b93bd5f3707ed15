"""`megacontext bench focus`: planning, editing, and what the strategies reach of the best context."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from megacontext.bench.focus import FocusBenchConfig, bench_focus
from megacontext.cli.answers import answer
from megacontext.cli.bench.telling import on_one_line, spread, telling
from megacontext.cli.tables import plain_table


@dataclass(frozen=True)
class FocusBench:
    """The focus allocator: milliseconds of a step, the exact best context, and how far strategies stay behind it."""

    config: FocusBenchConfig = field(default_factory=FocusBenchConfig)
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        told = bench_focus(self.config, say=telling("focus"))
        answer(told, self.json, lambda: _print(told))
        return 0


def _print(told: dict[str, Any]) -> None:
    console = Console()
    console.print(on_one_line(told["machine"]))
    planning = plain_table("strategy", "entries", "edits", "plan, ms", "apply, ms")
    for row in told["planning"]:
        planning.add_row(
            row["strategy"],
            f"{row['entries']:,}",
            str(row["edits"]),
            spread(row, "plan_ms", ".2f"),
            spread(row, "apply_ms", ".2f"),
        )
    console.print(planning)
    exact = plain_table("best context of tokens", "budget", "ms", "worth")
    for row in told["exact"]:
        budget = f"{row['budget_positions']:,}"
        exact.add_row(f"{row['tokens']:,}", budget, spread(row, "best_ms", ".1f"), f"{row['value']:.1f}")
    console.print(exact)
    shares = plain_table("strategy", "tokens", "utilities", "share of the best", "steps")
    for row in told["shares"]:
        shares.add_row(
            row["strategy"],
            f"{row['tokens']:,}",
            row["utilities"],
            spread(row, "share_of_best", ".3f"),
            f"{row['steps']:.0f}",
        )
    console.print(shares)
