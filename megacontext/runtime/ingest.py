"""Sources into a memory: each becomes a document, once.

What is there already, with the same content, is left alone, so giving the same command again goes on where it was
stopped: whole documents are passed over, and one that was cut off goes on at the token where it ends. A source whose
content has changed becomes a new document, and the old one is superseded, or forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from megacontext.errors import ConfigError
from megacontext.sources import Source
from megacontext.tokenizer import Tokenizer
from megacontext.tree import Document, Memory
from megacontext.tree.forgetting import forget_document

OnChange = Literal["supersede", "replace", "keep"]
"""What becomes of the old document when a source has changed: stays, marked as superseded; is forgotten; stays."""

_TOKENS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Ingested:
    """What became of one source."""

    name: str
    outcome: Literal["added", "resumed", "unchanged", "changed"]
    document: int
    tokens: int
    """Added now."""


def ingest(
    memory: Memory,
    tokenizer: Tokenizer,
    sources: Iterable[Source],
    *,
    on_change: OnChange = "supersede",
    filler: int = 0,
    tags: Sequence[str] = (),
    told: Callable[[int, int], None] | None = None,
) -> Iterator[Ingested]:
    """Take sources in, one after the other, and say what became of each. The memory is valid at every moment.

    `told` hears, after every piece, how many bytes of text and how many tokens came in since the last time. Raises
    ConfigError for a source that is no text, or whose text is not what a document that was cut off began with.
    """
    for source in sources:
        digest = source.digest()
        known = memory.documents.named(source.name)
        if known is not None and known.digest == digest and known.state != "open":
            if told is not None:
                told(source.size_bytes or 0, 0)
            yield Ingested(source.name, "unchanged", known.number, 0)
            continue
        with memory.document(
            source.name,
            media_type=source.media_type,
            tags=(*source.tags, *tags),
            time=source.modified.isoformat(timespec="seconds") if source.modified else "",
            digest=digest,
        ) as begun:
            added = _take_in(memory, tokenizer, source, begun, told)
        if known is None or known.number == begun.number:
            yield Ingested(source.name, "resumed" if begun.num_tokens else "added", begun.number, added)
            continue
        if on_change == "replace":
            forget_document(memory, known.number, filler)
        elif on_change == "supersede":
            memory.supersede(known.number, begun.number)
        yield Ingested(source.name, "changed", begun.number, added)


def _take_in(
    memory: Memory,
    tokenizer: Tokenizer,
    source: Source,
    begun: Document,
    told: Callable[[int, int], None] | None,
) -> int:
    """Append a source's tokens behind those that its document has. Returns how many."""
    there, seen, added = begun.num_tokens, 0, 0
    waiting: list[np.ndarray] = []
    for piece in source.text():
        ids = tokenizer.encode(piece)
        old = ids[: max(0, there - seen)]
        if len(old) and not np.array_equal(
            old, memory.tokens(begun.start + seen, begun.start + seen + len(old))
        ):
            raise ConfigError(
                f"a document that was cut off goes on with the text that it began with, {source.name} differs at "
                f"token {seen:,}; forget document {begun.number} and ingest again"
            )
        seen += len(ids)
        waiting.append(ids[len(old) :])
        added += len(waiting[-1])
        if sum(map(len, waiting)) >= _TOKENS_AT_ONCE:
            memory.append(np.concatenate(waiting))
            waiting = []
        if told is not None:
            told(len(piece.encode()), len(ids) - len(old))
    if waiting:
        memory.append(np.concatenate(waiting))
    return added
