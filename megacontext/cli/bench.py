"""`megacontext bench WHAT`: figures of this machine, each checked for correctness before it is timed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from megacontext.bench.model import ModelBenchConfig, bench_model
from megacontext.bench.store import StoreBenchConfig, bench_store
from megacontext.cli.tables import plain_table
from megacontext.evals.first_light import model_folder
from megacontext.runtime.bundle import Bundle


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
        told = bench_store(self.config, bundle, _telling("store"))
        if self.json:
            print(json.dumps(told, indent=2))
        else:
            _print_store(told)
        return 0


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
        told = bench_model(self.config, self.nanochat, _telling("model"))
        if self.json:
            print(json.dumps(told, indent=2))
        else:
            _print_model(told)
        return 0


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
@dataclass(frozen=True)
class Bench:
    """Measure this machine."""

    what: (
        Annotated[StoreBench, tyro.conf.subcommand("store")]
        | Annotated[ModelBench, tyro.conf.subcommand("model")]
    )

    def run(self) -> int:
        return self.what.run()


def _telling(what: str) -> Any:
    """Says on standard error what is measured now."""
    return lambda arm: print(f"bench {what}: {arm}", file=sys.stderr)


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
                _span(arm, "time_over_nanochat", ".2f") if theirs else "",
            )
        )
    return rows


def store_rows(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was measured, what came out, what is wanted."""
    scaling, reading, disk = told["scaling"], told["reading"], told["disk"]
    rows = [
        ("ids only, tokens/s", _span(told["ids_only"], "tokens_per_s", ",.0f"), ">= 1,000,000"),
        ("with gists, tokens/s", _span(told["with_gists"], "tokens_per_s", ",.0f"), ""),
        ("GistNet alone, tokens/s", _span(told["with_gists"], "gistnet_tokens_per_s", ",.0f"), ""),
        ("... share of it", _span(told["with_gists"], "share_of_gistnet", ".1%"), ">= 80 %"),
        (f"cost a token, {scaling['long_tokens']:,} over short", _span(scaling, "ratio", ".3f"), "<= 1.1"),
        ("256 random gists, ms", _span(reading, "read_256_gists_ms", ".3f"), "<= 1"),
        (f"open {reading['tokens']:,} tokens, ms", _span(reading, "open_ms", ".2f"), "<= 100"),
        ("... checking every page, ms", _span(reading, "open_checking_all_pages_ms", ".0f"), ""),
        ("file over its records", f"{disk['ratio']:.3f}", "<= 1.2"),
        ("bytes a token", f"{disk['bytes_per_token']:.2f}", ""),
        ("append one token, synced, ms", _span(told["single_appends"], "sync_ms", ".3f"), ""),
        ("append one token, batched, ms", _span(told["single_appends"], "batch_ms", ".4f"), ""),
    ]
    memory = told["reader_memory"]
    if "long" in memory:
        both = f"{memory['short']['anonymous_kib']:,} / {memory['long']['anonymous_kib']:,}"
        rows.append(("a reader's own memory, KiB, short / long", both, "flat"))
    return rows


def _span(told: dict[str, Any], name: str, form: str) -> str:
    return f"{told[name]:{form}} ({told[name + '_min']:{form}} to {told[name + '_max']:{form}})"


def _print_store(told: dict[str, Any]) -> None:
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in told["machine"].items()))
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


def _print_model(told: dict[str, Any]) -> None:
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in told["machine"].items()))
    console.print(", ".join(f"{name} {value}" for name, value in told["config"].items()))
    console.print(", ".join(f"{name} {value:.1e}" for name, value in told["checks"].items()))
    table = plain_table("measured", "tokens/s", "nanochat's", "time / nanochat's (least to most)")
    for row in model_rows(told):
        table.add_row(*row)
    console.print(table)
    if told.get("nanochat_lacks"):
        console.print(f"without nanochat's cache, which cannot be imported: {told['nanochat_lacks']}")
