"""`megacontext memory ingest`: texts into a memory, each as a document.

An interrupt leaves what was taken in so far; the same command goes on from there.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from megacontext.cli.answers import answer
from megacontext.cli.memory.materials import MemoryPath, filler_of, load_encoder, sweep
from megacontext.errors import ConfigError
from megacontext.progress import Progress
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.ingest import Ingested, OnChange, ingest
from megacontext.sources import find_sources
from megacontext.tree import Memory, refresh


@dataclass(frozen=True)
class Ingest:
    """Take texts into a memory, each as a document. Made if it does not exist; given again, it goes on where it was.

    What is there already is passed over; what has changed becomes a new document.
    """

    memory: MemoryPath
    """Folder of a memory, or of one to be made."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Files, folders, globs in quotes, or - for standard input. Of a parquet file, every row of its column `text`."""
    model: str = "tiny"
    """Whose vocabulary and gists: a folder in data/, or the path of one."""
    gists: bool = True
    """Make gists at once; without, `refresh` makes them later."""
    on_change: OnChange = "supersede"
    """What becomes of the document of a source that has changed: it stays readable but is marked (supersede), is
    forgotten (replace), or stays as it is (keep)."""
    name: str = "stdin"
    """Name of the document that standard input becomes."""
    tags: tuple[str, ...] = ()
    """Words to file the documents under."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if not self.sources:
            raise ConfigError("ingesting needs a source; give files, folders, globs or -")
        found = find_sources(self.sources, stdin_name=self.name)
        encoder = load_encoder(self.model)
        begun = time.perf_counter()
        done: list[Ingested] = []
        swept = 0
        with self._opened(encoder) as memory:
            with Progress("bytes of text", found.size_bytes) as progress:
                tokens = 0

                def told(text_bytes: int, count: int) -> None:
                    nonlocal tokens
                    tokens += count
                    rate = tokens / (time.perf_counter() - begun)
                    progress.advance(f"{tokens:,} tokens, {rate:,.0f} tokens/s", text_bytes)

                taken = ingest(
                    memory,
                    encoder.tokenizer,
                    found,
                    on_change=self.on_change,
                    filler=filler_of(encoder),
                    tags=self.tags,
                    told=told,
                )
                try:
                    done.extend(taken)
                except KeyboardInterrupt:
                    memory.sync()
                    self._say_where(memory)
                    raise
            if self.gists:
                swept = sweep(memory, encoder)
            num_tokens = memory.num_tokens
        seconds = time.perf_counter() - begun
        added = sum(one.tokens for one in done)
        told_all = {
            "tokens": num_tokens,
            "tokens_added": added,
            "tokens_per_s": added / seconds,
            "blocks_swept": swept,
            "documents": [asdict(one) for one in done],
            "skipped": [asdict(one) for one in found.skipped],
        }

        def say() -> None:
            for one in found.skipped:
                print(f"skipped: {one.name}: {one.why}")
            outcomes = Counter(one.outcome for one in done)
            print(
                ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
                or "nothing to take in"
            )
            print(
                f"{added:,} tokens added in {seconds:.1f} s, {added / seconds:,.0f} tokens/s; {num_tokens:,} in all"
            )

        answer(told_all, self.json, say)
        return 0

    def _opened(self, encoder: BundleEncoder) -> Memory:
        if not self.memory.exists():
            return Memory.create(self.memory, encoder.identity(), encoder if self.gists else None)
        with Memory.open(self.memory) as memory:
            has_gists = bool(memory.catalogue.versions)
        if self.gists and not has_gists:
            with Memory.open(self.memory, encoder.identity(), writable=True) as memory:
                refresh.add_version(memory, encoder.identity(), encoder)
        return Memory.open(self.memory, encoder.identity(), encoder if self.gists else None, writable=True)

    def _say_where(self, memory: Memory) -> None:
        last = memory.documents.last()
        inside = f" in {last.name}" if last is not None and last.state == "open" else ""
        print(
            f"megacontext: stopped at token {memory.num_tokens:,}{inside}; the same command goes on from there",
            file=sys.stderr,
        )
