"""`megacontext bench live`: what a token costs, however long the history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from megacontext.bench.live import LiveBenchConfig, bench_live
from megacontext.cli.answers import answer
from megacontext.cli.bench.telling import on_one_line, spread, telling
from megacontext.cli.tables import plain_table


@dataclass(frozen=True)
class LiveBench:
    """Decoding, focusing and answering over histories of growing length, and reuse of the cache. Takes minutes."""

    config: LiveBenchConfig = field(default_factory=LiveBenchConfig)
    model: str = "tiny"
    """A folder in data/, or the path of a folder, with trained parts."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        told = bench_live(self.config, self.model, telling("live"))
        answer(told, self.json, lambda: _print(told))
        return 0


def length_rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of each length: cost of a token and of a period from refocus to refocus, share of focus, answers, memory."""
    return [
        (
            f"{int(tokens):,}",
            f"{arm['p50_ms']:.2f}",
            f"{arm['p50_ratio']:.3f}",
            f"{arm['period_ms']:.1f}",
            f"{arm['period_ratio']:.3f}",
            f"{arm['refocus_share']:.1%}",
            str(arm["positions"]),
            f"{told['answers'][tokens]['right']}/{told['answers'][tokens]['asked']}",
            f"{told['answers'][tokens]['answer_ms']:.0f}",
            f"{told['process'][tokens].get('anonymous_kib', 0) / 1024:.0f}",
        )
        for tokens, arm in told["decode"].items()
    ]


def _print(told: dict[str, Any]) -> None:
    console = Console()
    console.print(on_one_line(told["machine"]))
    console.print(on_one_line(told["config"]))
    table = plain_table(
        "tokens of history", "p50 ms a token", "ratio", "ms a period, focus included", "ratio", "focus",
        "positions", "oldest facts", "ms an answer", "own MiB",
    )  # fmt: skip
    for row in length_rows(told):
        table.add_row(*row)
    console.print(table)
    plain = plain_table("tokens, every one kept", "p50 ms a token", "positions")
    for tokens, arm in told["plain"].items():
        plain.add_row(f"{int(tokens):,}", f"{arm['p50_ms']:.2f}", f"{arm['positions']:,}")
    console.print(plain)
    beside = plain_table("sessions", "ms a token, side by side", "ms, one by one", "gain (least to most)")
    for count, arm in told["together"].items():
        beside.add_row(
            count, f"{arm['together_ms']:.2f}", f"{arm['alone_ms']:.2f}", spread(arm, "speedup", ".2f")
        )
    console.print(beside)
    kept = plain_table(
        "layout", "rows", "reused", "ms, kept", "ms, anew", "of means", "anew over kept (least to most)"
    )
    for layout, arm in told["reuse"].items():
        kept.add_row(
            layout,
            str(arm["rows"]),
            f"{arm['reused_share']:.1%}",
            f"{arm['kept_ms']:.1f}",
            f"{arm['anew_ms']:.1f}",
            f"{arm['speedup_of_means']:.2f}",
            spread(arm, "speedup", ".2f"),
        )
    console.print(kept)
