"""Histories of an evaluation: planted, then stored in a memory on disk, and what storing them cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig, Session, starting_context
from megacontext.tasks.asked import Asked, AskedHistory
from megacontext.tree.memory import Memory

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

    def needed_blocks(self, question: Asked) -> tuple[int, ...]:
        """Finished blocks that the evidence stands in, ascending."""
        memory = self.session.memory
        size = memory.block_size
        blocks: set[int] = set()
        for span in question.needed:
            last = min((span.stop - 1) // size, memory.num_blocks - 1)
            blocks.update(range(span.start // size, last + 1))
        return tuple(sorted(blocks))


def check_room(history: History, bundle: Bundle, budget: int) -> None:
    """Raises BudgetError for a budget that some question and the coarsest cover of its history do not fit."""
    prompts = [bundle.tokenizer.encode(question.prompt) for question in history.asked.questions]
    starting_context(len(history.asked.ids), bundle.config.block_size, budget, max(map(len, prompts)))


def stored(
    history: History, focus: FocusConfig, bundle: Bundle, run: RunFolder, *, quiet: bool = False
) -> tuple[Case, dict[str, Any]]:
    """The history in a new memory in the run's folder, and the figures of its ingest."""
    name, ids = history.name, history.asked.ids
    encoder = BundleEncoder(bundle)
    memory = Memory.create(run.path / "memory" / name, encoder.identity(), encoder)
    session = Session(bundle, memory, focus, seed=history.seed)
    began = time.perf_counter()
    with Progress(f"{name}: text into tree", len(ids), quiet=quiet) as progress:
        for at in range(0, len(ids), _CHUNK_TOKENS):
            part = ids[at : at + _CHUNK_TOKENS]
            session.observe(part)
            seconds = time.perf_counter() - began
            run.telemetry.emit(
                "ingest",
                history=name,
                wall_s=seconds,
                tokens_total=at + len(part),
                blocks_total=memory.num_blocks,
                tokens_per_s=(at + len(part)) / seconds,
                store_bytes=memory.store_bytes,
            )
            progress.advance(f"{(at + len(part)) / seconds:,.0f} tokens/s", len(part))
    return Case(history, session), {
        "history": name,
        "tokens": len(ids),
        "wall_s": seconds,
        "tokens_per_s": len(ids) / seconds,
        "store_bytes": memory.store_bytes,
        "bytes_per_token": memory.store_bytes / len(ids),
        "flops": encoder.flops_per_token() * len(ids),
    }
