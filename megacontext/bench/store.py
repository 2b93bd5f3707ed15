"""How fast and how large a memory on disk is: the figures of the tree store.

Every arm first checks that what it wrote reads back, then times it. Rates are medians over several rounds with the
spread beside them; what is compared (ingest against the encoder alone, a long history against a short one) is measured
in turns within one run, so that a change of the machine's pace falls on both.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.bench.machine import machine
from megacontext.bench.measuring import KNOWS_MEMORY, run_apart, spread, timed
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tree import Identity, LmdbStore, Memory
from megacontext.tree.encoder import left_windows
from megacontext.tree.layout import Layout, disk_bytes, plan
from megacontext.tree.store import scan_all

BLOCK = 32
VOCABULARY = 4096


@dataclass(frozen=True, kw_only=True)
class StoreBenchConfig:
    """Sizes of a run."""

    short_tokens: int = 100_000
    long_tokens: int = 10_000_000
    encoded_tokens: int = 200_000
    """Tokens of the arm with real gists."""
    rounds: int = 5
    reads: int = 200
    """Timed reads of 256 gists."""
    gist_width: int = 128
    address_width: int = 64


@dataclass(frozen=True)
class FirstNumbers:
    """A gist encoder that costs nearly nothing, to time the store: the first ids of a block, repeated."""

    gist_width: int
    address_width: int
    block_size: int = BLOCK
    left_tokens: int = 16
    fingerprint: str = "first-numbers"

    def encode_blocks(self, tokens: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scaled = tokens.astype(np.float32) / VOCABULARY  # (n, K)
        return (
            np.resize(scaled.T, (self.gist_width, len(tokens))).T,
            np.resize(scaled.T, (self.address_width, len(tokens))).T,
        )

    def encode_parents(self, children: np.ndarray, lod: int) -> np.ndarray:
        return children[:, 0]

    def identity(self) -> Identity:
        return Identity(tokenizer="bench", embedding="bench", encoder=self.fingerprint, block_size=BLOCK)


def bench_store(config: StoreBenchConfig, bundle: Bundle, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures, as JSON would hold them. `say` is told which arm begins."""
    encoder = FirstNumbers(config.gist_width, config.address_width)
    told: dict[str, Any] = {"machine": machine(), "config": vars(config)}
    with _folder() as folder:
        say("ids only")
        told["ids_only"] = ids_only(config, folder)
        say("gists, against GistNet alone")
        told["with_gists"] = with_gists(config, bundle, folder)
        say("a long history against a short one")
        told["scaling"], long = scaling(config, encoder, folder)
        say("reading")
        told["reading"] = reading(config, encoder, long)
        say("readers' memory")
        told["reader_memory"] = reader_memory(config, encoder, folder, long)
        say("disk")
        told["disk"] = disk(long)
        told["widths"] = widths()
        say("one token at a time")
        told["single_appends"] = single_appends(encoder, folder)
    return told


def ids_only(config: StoreBenchConfig, folder: Path) -> dict[str, Any]:
    """Tokens per second of a memory without gists, in synced chunks."""
    ids = _ids(1_000_000)
    seconds = []
    for number in range(config.rounds):
        path = folder / f"ids-{number}"
        with Memory.create(path, FirstNumbers(1, 1).identity(), None) as memory:
            seconds.append(timed(lambda memory=memory: memory.append(ids)))
            assert np.array_equal(memory.tokens(0, len(ids)), ids)
        shutil.rmtree(path)
    return spread("tokens_per_s", [len(ids) / one for one in seconds])


def with_gists(config: StoreBenchConfig, bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Rate of ingest with the real encoder, and its share of the encoder's own rate, in turns."""
    encoder = BundleEncoder(bundle)
    size = encoder.block_size
    count = config.encoded_tokens // size * size
    ids = _ids(count, bundle.tokenizer.vocab_size)
    blocks = ids.reshape(-1, size)
    left = left_windows(np.full(encoder.left_tokens, -1, dtype=np.int32), blocks, encoder.left_tokens)

    def forward() -> None:
        level, _ = encoder.encode_blocks(blocks, left)
        lod = 2
        while len(level) >= size:
            family = level[: len(level) // size * size].reshape(-1, size, level.shape[1])
            level = encoder.encode_parents(family, lod)
            lod += 1

    forward()
    alone, ingested = [], []
    for number in range(config.rounds):
        path = folder / f"gists-{number}"
        with Memory.create(path, encoder.identity(), encoder) as memory:
            ingested.append(count / timed(lambda memory=memory: memory.append(ids)))
            assert memory.covers(1, [memory.num_blocks - 1]).all()
        alone.append(count / timed(forward))
        shutil.rmtree(path)
    shares = [one / other for one, other in zip(ingested, alone, strict=True)]
    return {
        **spread("tokens_per_s", ingested),
        **spread("gistnet_tokens_per_s", alone),
        **spread("share_of_gistnet", shares),
    }


def scaling(config: StoreBenchConfig, encoder: FirstNumbers, folder: Path) -> tuple[dict[str, Any], Path]:
    """Seconds per token appended behind a long history, over those behind a short one. Keeps the long memory."""
    ids = _ids(config.short_tokens)
    long, short = folder / "long", folder / "short"
    chunk = _ids(1_000_000, seed=1)
    with Memory.create(long, encoder.identity(), encoder) as memory:
        whole = 0.0
        while memory.num_tokens < config.long_tokens:
            part = chunk[: config.long_tokens - memory.num_tokens]
            whole += timed(lambda memory=memory, part=part: memory.append(part))
    ratios = []
    behind_long, behind_short = [], []
    for number in range(max(config.rounds, 5)):
        with Memory.create(short.with_name(f"short-{number}"), encoder.identity(), encoder) as one:
            one.append(ids)
            with Memory.open(long, encoder.identity(), encoder, writable=True) as other:
                behind_short.append(timed(lambda one=one: one.append(ids)))
                behind_long.append(timed(lambda other=other: other.append(ids)))
        ratios.append(behind_long[-1] / behind_short[-1])
    return {
        "long_tokens": config.long_tokens,
        "whole_tokens_per_s": config.long_tokens / whole,
        **spread("ns_per_token_at_short", [1e9 * one / len(ids) for one in behind_short]),
        **spread("ns_per_token_at_long", [1e9 * one / len(ids) for one in behind_long]),
        **spread("ratio", ratios),
    }, long


def reading(config: StoreBenchConfig, encoder: FirstNumbers, path: Path) -> dict[str, Any]:
    """Milliseconds to open a long memory, and to read 256 random gists of LOD1, warm."""
    opened, read = [], []
    rng = np.random.default_rng(0)
    for _ in range(max(config.rounds, 5)):
        began = time.perf_counter()
        with Memory.open(path, encoder.identity()) as memory:
            tokens = memory.num_tokens
            opened.append(1000 * (time.perf_counter() - began))
    checked = []
    for _ in range(3):
        began = time.perf_counter()
        Memory.open(path, encoder.identity(), check="always").close()
        checked.append(1000 * (time.perf_counter() - began))
    with Memory.open(path, encoder.identity()) as memory:
        memory.gists(1, np.arange(memory.num_blocks))  # warms the pages
        for _ in range(config.reads):
            wanted = rng.integers(0, memory.num_blocks, size=256)
            began = time.perf_counter()
            gists = memory.gists(1, wanted)
            read.append(1000 * (time.perf_counter() - began))
        expected = memory.blocks(wanted)[:, 0].astype(np.float32) / VOCABULARY
        assert np.array_equal(gists[:, 0], expected.astype(np.float16).astype(np.float32))
    return {
        "tokens": tokens,
        **spread("open_ms", opened),
        **spread("open_checking_all_pages_ms", checked),
        **spread("read_256_gists_ms", read),
    }


_READER = """
import json, sys
import numpy as np
from megacontext.bench.measuring import held_kib
from megacontext.tree import Memory
rng = np.random.default_rng(0)
with Memory.open(sys.argv[1]) as memory:
    before = held_kib()
    for _ in range(2000):
        memory.gists(1, rng.integers(0, memory.num_blocks, size=64))
        start = int(rng.integers(0, memory.num_tokens - 1000))
        memory.tokens(start, start + 1000)
    after = held_kib()
print(json.dumps({"anonymous_kib": after["RssAnon"], "grown_kib": after["RssAnon"] - before["RssAnon"],
                  "mapped_kib": after["RssFile"]}))
"""


def reader_memory(
    config: StoreBenchConfig, encoder: FirstNumbers, folder: Path, long: Path
) -> dict[str, Any]:
    """Memory of its own that a reading process holds after 2,000 random reads, of a short and of a long history.

    Mapped pages of the file are counted beside it: they are the system's cache, and given back when it needs room.
    """
    if not KNOWS_MEMORY:
        return {"skipped": "needs /proc/self/status"}
    short = folder / "short-0"
    return {"short": run_apart(_READER, str(short)), "long": run_apart(_READER, str(long))}


def disk(path: Path) -> dict[str, Any]:
    """Bytes of the file over the sum of its records, whole and by table; bytes per token."""
    store = LmdbStore.open(path, writable=False)
    try:
        tables = {}
        for name, pages in store.table_pages().items():
            records = sum(len(key) + len(value) for key, value in scan_all(store, name))
            used = pages["psize"] * (pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"])
            tables[name] = {"records": pages["entries"], "record_bytes": records, "page_bytes": used}
        file_bytes = store.store_bytes
    finally:
        store.close()
    with Memory.open(path) as memory:
        tokens = memory.num_tokens
    total = sum(table["record_bytes"] for table in tables.values())
    return {
        "tokens": tokens,
        "file_bytes": file_bytes,
        "record_bytes": total,
        "ratio": file_bytes / total,
        "bytes_per_token": file_bytes / tokens,
        "tables": {
            name: {
                **table,
                "ratio": table["page_bytes"] / max(1, table["record_bytes"]),
                "bytes_per_token": table["page_bytes"] / tokens,
            }
            for name, table in tables.items()
        },
    }


def widths() -> list[dict[str, Any]]:
    """Where gists of several widths are cut, and what they take: by the arithmetic that the tests hold to files."""
    rows = []
    for width in (64, 128, 384, 576, 768, 1024, 1536, 2048, 4096, 12_288, 23_040):
        layout, whole = plan(2 * width), Layout(2 * width, 2 * width)
        rows.append(
            {
                "numbers": width,
                "bytes": 2 * width,
                "records": layout.parts,
                "ratio": disk_bytes(layout) / layout.record_bytes,
                "ratio_uncut": disk_bytes(whole) / whole.record_bytes,
                # LOD1 has a gist for 32 tokens, LOD2 for 1,024, and so on.
                "bytes_per_token": disk_bytes(layout) / (BLOCK - 1),
                "bytes_per_token_lod1": disk_bytes(layout) / BLOCK,
                "bytes_per_token_lod2": disk_bytes(layout) / BLOCK**2,
            }
        )
    return rows


def single_appends(encoder: FirstNumbers, folder: Path) -> dict[str, Any]:
    """Milliseconds for one token, durable when the call returns, and for one that may wait."""
    told: dict[str, Any] = {}
    for durability in ("sync", "batch"):
        path = folder / f"single-{durability}"
        with Memory.create(path, encoder.identity(), encoder, durability=durability) as memory:
            taken = []
            for token in range(500):
                began = time.perf_counter()
                memory.append([token])
                taken.append(1000 * (time.perf_counter() - began))
        told |= spread(f"{durability}_ms", taken)
    return told


def _ids(count: int, vocabulary: int = VOCABULARY, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, size=count, dtype=np.int32)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="megacontext-bench-") as folder:
        yield Path(folder)
