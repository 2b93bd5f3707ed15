"""Histories of an evaluation: planted, then stored in a memory on disk, and what storing them cost."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from megacontext.corpus.book import load_book
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.frozen.encoding import create_memory, encoder_of, open_memory
from megacontext.runtime.frozen.reader import FrozenReader
from megacontext.runtime.reading import NO_FRAME
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig, Session, starting_context
from megacontext.runtime.steps import said_room
from megacontext.spans import Span
from megacontext.tasks.asked import AskedHistory
from megacontext.tokenizer import Tokenizer
from megacontext.tree.memory import Memory

KEPT_MEMORIES = ".memories"
"""Folder beside the runs for memories that several runs may read."""
_CHUNK_TOKENS = 16_384
"""Tokens appended at a time, so that the ingest shows progress and leaves telemetry."""


@dataclass(frozen=True)
class History:
    """A text with a task planted in it, not in a tree yet."""

    group: str
    """What its figures are pooled with."""
    name: str
    """The group, a hyphen, and a number."""
    asked: AskedHistory
    seed: int
    documents: tuple[Stretch, ...] = ()
    """What its tokens come from, in order; empty where that is not told apart."""


@dataclass(frozen=True)
class Stretch:
    """Tokens [start, stop) of a history, out of one document."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Case:
    """One history in a tree, ready to be asked."""

    history: History
    session: Session

    @property
    def name(self) -> str:
        return self.history.name

    @property
    def asked(self) -> AskedHistory:
        return self.history.asked

    def blocks_of(self, evidence: tuple[Span, ...]) -> tuple[int, ...]:
        """Finished blocks that the sentences of the evidence stand in, ascending."""
        memory = self.session.memory
        size = memory.block_size
        blocks: set[int] = set()
        for span in evidence:
            last = min((span.stop - 1) // size, memory.num_blocks - 1)
            blocks.update(range(span.start // size, last + 1))
        return tuple(sorted(blocks))


def history_of_books(books: Sequence[str], tokens_each: int, tokenizer: Tokenizer) -> History:
    """The beginnings of some books, one document each, of so many tokens at most, in which nothing is asked.

    Raises what `load_book` raises.
    """
    texts = [tokenizer.encode(load_book(name).text)[:tokens_each] for name in books]
    ends = np.cumsum([len(text) for text in texts]).tolist()
    stretches = tuple(
        Stretch(name, end - len(text), end) for name, text, end in zip(books, texts, ends, strict=True)
    )
    return History("books", "books-0", AskedHistory(np.concatenate(texts), ()), 0, stretches)


def check_room(history: History, bundle: Bundle | FrozenReader, budget: int, *, aloud: bool = False) -> None:
    """Raises BudgetError for a budget that some question and the coarsest cover of its history do not fit.

    `aloud`: with all the steps that there is room to say.
    """
    prompts = [bundle.tokenizer.encode(question.prompt) for question in history.asked.questions]
    frame = bundle.frame if isinstance(bundle, FrozenReader) else NO_FRAME
    longest = max(map(frame.cost, prompts))
    if aloud:
        longest = max(longest, said_room(budget))
    starting_context(len(history.asked.ids), bundle.config.block_size, budget, longest)


def stored(
    history: History,
    focus: FocusConfig,
    bundle: Bundle | FrozenReader,
    run: RunFolder,
    *,
    quiet: bool = False,
) -> tuple[Case, dict[str, Any]]:
    """The history in a new memory in the run's folder, and the figures of its ingest.

    With a frozen reader, whose gists are dear, the memory is kept beside the runs and found again by the next one.
    """
    ids = history.asked.ids
    memory, known = _memory(history, bundle, run)
    session = Session(bundle, memory, focus, seed=history.seed)
    began = time.perf_counter()
    if not known:
        try:
            _ingest(history, session, run, quiet)
        except BaseException:
            memory.close()
            raise
    seconds = time.perf_counter() - began
    return Case(history, session), {
        "history": history.name,
        "tokens": len(ids),
        "reopened": known,
        "wall_s": seconds,
        "tokens_per_s": len(ids) / seconds,
        "store_bytes": memory.store_bytes,
        "bytes_per_token": memory.store_bytes / len(ids),
        "flops": encoder_of(bundle).flops_per_token() * len(ids),
    }


def _ingest(history: History, session: Session, run: RunFolder, quiet: bool) -> None:
    ids, memory = history.asked.ids, session.memory
    began = time.perf_counter()
    with Progress(f"{history.name}: text into tree", len(ids), quiet=quiet) as progress:
        for stretch in history.documents or (Stretch("", 0, len(ids)),):
            with memory.document(stretch.name) if stretch.name else nullcontext():
                for at in range(stretch.start, stretch.stop, _CHUNK_TOKENS):
                    part = ids[at : min(at + _CHUNK_TOKENS, stretch.stop)]
                    session.observe(part)
                    seconds = time.perf_counter() - began
                    run.telemetry.emit(
                        "ingest",
                        history=history.name,
                        wall_s=seconds,
                        tokens_total=at + len(part),
                        blocks_total=memory.num_blocks,
                        tokens_per_s=(at + len(part)) / seconds,
                        store_bytes=memory.store_bytes,
                    )
                    progress.advance(f"{(at + len(part)) / seconds:,.0f} tokens/s", len(part))


def _memory(history: History, bundle: Bundle | FrozenReader, run: RunFolder) -> tuple[Memory, bool]:
    """The memory of a history, open for writing, and whether all of it is there already."""
    place = run.path / "memory" / history.name
    if not isinstance(bundle, FrozenReader):
        encoder = BundleEncoder(bundle)
        return Memory.create(place, encoder.identity(), encoder), False
    kept = run.path.parent / KEPT_MEMORIES / _digest(history, bundle)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(kept, place.parent), target_is_directory=True)
    if kept.is_dir():
        memory = open_memory(bundle, kept, writable=True)
        if memory.num_tokens == len(history.asked.ids):
            return memory, True
        # Its ingest was interrupted.
        memory.close()
        shutil.rmtree(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    return create_memory(bundle, kept), False


def _digest(history: History, reader: FrozenReader) -> str:
    digest = hashlib.blake2b(reader.fingerprint().encode(), digest_size=8)
    digest.update(history.asked.ids.tobytes() + repr(history.documents).encode())
    return digest.hexdigest()
