"""`megacontext bench store`: the memory on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from megacontext.bench.store import StoreBenchConfig, bench_store
from megacontext.cli.answers import answer
from megacontext.cli.bench.telling import on_one_line, spread, telling
from megacontext.cli.tables import plain_table
from megacontext.runtime.bundle import Bundle, model_folder


@dataclass(frozen=True)
class StoreBench:
    """The memory on disk: its ingest, reading, opening and size. Takes minutes."""

    config: StoreBenchConfig = field(default_factory=StoreBenchConfig)
    model: str = "tiny"
    """The model whose GistNet is timed."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        bundle = Bundle.load(model_folder(self.model))
        told = bench_store(self.config, bundle, telling("store"))
        answer(told, self.json, lambda: _print(told))
        return 0


def store_rows(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was measured, what came out, what is wanted."""
    scaling, reading, disk = told["scaling"], told["reading"], told["disk"]
    rows = [
        ("ids only, tokens/s", spread(told["ids_only"], "tokens_per_s", ",.0f"), ">= 1,000,000"),
        ("with gists, tokens/s", spread(told["with_gists"], "tokens_per_s", ",.0f"), ""),
        ("GistNet alone, tokens/s", spread(told["with_gists"], "gistnet_tokens_per_s", ",.0f"), ""),
        ("... share of it", spread(told["with_gists"], "share_of_gistnet", ".1%"), ">= 80 %"),
        (f"cost a token, {scaling['long_tokens']:,} over short", spread(scaling, "ratio", ".3f"), "<= 1.1"),
        ("256 random gists, ms", spread(reading, "read_256_gists_ms", ".3f"), "<= 1"),
        (f"open {reading['tokens']:,} tokens, ms", spread(reading, "open_ms", ".2f"), "<= 100"),
        ("... checking every page, ms", spread(reading, "open_checking_all_pages_ms", ".0f"), ""),
        ("file over its records", f"{disk['ratio']:.3f}", "<= 1.2"),
        ("bytes a token", f"{disk['bytes_per_token']:.2f}", ""),
        ("append one token, synced, ms", spread(told["single_appends"], "sync_ms", ".3f"), ""),
        ("append one token, batched, ms", spread(told["single_appends"], "batch_ms", ".4f"), ""),
    ]
    memory = told["reader_memory"]
    if "long" in memory:
        both = f"{memory['short']['anonymous_kib']:,} / {memory['long']['anonymous_kib']:,}"
        rows.append(("a reader's own memory, KiB, short / long", both, "flat"))
    return rows


def _print(told: dict[str, Any]) -> None:
    console = Console()
    console.print(on_one_line(told["machine"]))
    table = plain_table("measured", "median (least to most)", "wanted")
    for row in store_rows(told):
        table.add_row(*row)
    console.print(table)
    cut = plain_table("numbers in a gist", "bytes", "records", "file over records", "uncut", "bytes a token")
    for row in told["widths"]:
        cut.add_row(
            f"{row['numbers']:,}",
            f"{row['bytes']:,}",
            str(row["records"]),
            f"{row['ratio']:.3f}",
            f"{row['ratio_uncut']:.3f}",
            f"{row['bytes_per_token']:.1f}",
        )
    console.print(cut)
