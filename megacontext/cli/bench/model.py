"""`megacontext bench model`: the base model, alone or beside nanochat's own code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from megacontext.bench.model import ModelBenchConfig, bench_model
from megacontext.cli.answers import answer
from megacontext.cli.bench.telling import on_one_line, spread, telling
from megacontext.cli.tables import plain_table


@dataclass(frozen=True)
class ModelBench:
    """The base model: a training step, prefill and decoding, with random weights. Takes a minute."""

    config: ModelBenchConfig = field(default_factory=ModelBenchConfig)
    nanochat: Path | None = None
    """A checkout of nanochat to race against, with equal weights. This imports and RUNS the code in that folder: give
    one that you trust."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        told = bench_model(self.config, self.nanochat, telling("model"))
        answer(told, self.json, lambda: _print(told))
        return 0


def model_rows(told: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Arm, rate of ours, rate of nanochat's, time of ours over theirs."""
    rows = []
    for name, arm in told["arms"].items():
        theirs = "nanochat_tokens_per_s" in arm
        rows.append(
            (
                name,
                f"{arm['tokens_per_s']:,.0f}",
                f"{arm['nanochat_tokens_per_s']:,.0f}" if theirs else "",
                spread(arm, "time_over_nanochat", ".2f") if theirs else "",
            )
        )
    return rows


def _print(told: dict[str, Any]) -> None:
    console = Console()
    console.print(on_one_line(told["machine"]))
    console.print(on_one_line(told["config"]))
    console.print(", ".join(f"{name} {value:.1e}" for name, value in told["checks"].items()))
    table = plain_table("measured", "tokens/s", "nanochat's", "time / nanochat's (least to most)")
    for row in model_rows(told):
        table.add_row(*row)
    console.print(table)
    if told.get("nanochat_lacks"):
        console.print(f"without nanochat's cache, which cannot be imported: {told['nanochat_lacks']}")
