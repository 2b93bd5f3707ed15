"""Where each source of a history begins and ends, so that a span can be cited and a source taken out.

Documents follow one another along the timeline in the order of their numbers, and never overlap; between them may lie
tokens that belong to none. So the document at a place is found by halving. A document keeps its place for life: when
it is forgotten, its tokens become filler and its record loses name and tags, but nothing after it moves, and every
citation of the rest stays true.

Deliberately ignorant of what a document says, and of who reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from megacontext.errors import CorruptRecordError, NodeMissingError
from megacontext.spans import Span
from megacontext.tree.records import DOCUMENTS, NAMES, WAY_OUT, Record, number_key, seal, unseal
from megacontext.tree.store import Store

State = Literal["open", "whole", "superseded", "forgotten", "lost"]
"""open: being written, or cut off; superseded: still readable, but a newer one says it better; lost: damage took its
record, but not its tokens."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One source, and the tokens [start, stop) that it takes up."""

    number: int
    name: str
    media_type: str = "text/plain"
    tags: tuple[str, ...] = ()
    time: str = ""
    """When the source was written or said, ISO 8601; empty if unknown."""
    added: str = ""
    """When it was taken into the memory, ISO 8601."""
    digest: str = ""
    """Of the source's content, to recognise it again; empty if unknown."""
    start: int
    stop: int
    state: State = "open"
    superseded_by: int | None = None

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start

    def record(self) -> Record:
        """Key and sealed value."""
        key = number_key(self.number)
        return key, seal(DOCUMENTS, key, json.dumps(asdict(self), sort_keys=True).encode())

    def forgotten(self) -> Document:
        """All that stays of a document that was taken out."""
        return Document(number=self.number, name="", start=self.start, stop=self.stop, state="forgotten")


class Citation(NamedTuple):
    """A stretch of one document; reads "book.txt, tokens 12,034-12,066", counted from the document's start."""

    document: Document
    span: Span
    """On the timeline of the whole history."""

    def __str__(self) -> str:
        begin = self.document.start
        name = self.document.name or f"document {self.document.number}, {self.document.state}"
        return f"{name}, tokens {self.span.start - begin:,}-{self.span.stop - begin:,}"


class Documents:
    """The documents of a history, by number, by name and by place."""

    def __init__(self, store: Store, count: Callable[[], int]):
        self._store, self._count = store, count

    def __len__(self) -> int:
        return self._count()

    def __iter__(self) -> Iterator[Document]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Document:
        """Raises NodeMissingError if there is no such document, CorruptRecordError if it is damaged."""
        if not 0 <= number < len(self):
            raise NodeMissingError(
                f"a document's number must lie in [0, {len(self)}), got {number}; list them with "
                "`megacontext memory inspect`"
            )
        key = number_key(number)
        (value,) = self._store.read(DOCUMENTS, [key])
        if value is None:
            raise CorruptRecordError(f"document {number} must be stored, it is missing; {WAY_OUT}")
        return read_document(key, value)

    def named(self, name: str) -> Document | None:
        """The newest document of that name, None if there is none."""
        key = name_key(name)
        (value,) = self._store.read(NAMES, [key])
        if value is None:
            return None
        return self[int.from_bytes(unseal(NAMES, key, value, f"the number of {name!r}"), "big")]

    def last(self) -> Document | None:
        count = len(self)
        return self[count - 1] if count else None

    def first_from(self, token: int) -> int:
        """Number of the first document that ends behind `token`; the number of documents if none does."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self[middle].stop > token:
                high = middle
            else:
                low = middle + 1
        return low

    def overlapping(self, start: int, stop: int) -> Iterator[Document]:
        """Documents with a token in [start, stop), in order."""
        for number in range(self.first_from(start), len(self)):
            document = self[number]
            if document.start >= stop:
                return
            if max(start, document.start) < min(stop, document.stop):
                yield document

    def cite(self, start: int, stop: int) -> list[Citation]:
        """The stretches of documents that tokens [start, stop) come from, in order."""
        return [
            Citation(document, Span(max(start, document.start), min(stop, document.stop)))
            for document in self.overlapping(start, stop)
        ]


def read_document(key: bytes, value: bytes) -> Document:
    """What `Document.record` wrote. Raises CorruptRecordError."""
    stored = json.loads(unseal(DOCUMENTS, key, value, f"the record of document {int.from_bytes(key, 'big')}"))
    return Document(**{**stored, "tags": tuple(stored["tags"])})


def name_key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()


def name_record(document: Document) -> Record:
    """The record by which a document is found by name."""
    key = name_key(document.name)
    return key, seal(NAMES, key, number_key(document.number))


def now() -> str:
    """The present time as documents keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def grown(document: Document, stop: int) -> Document:
    """The same document, reaching to `stop`."""
    return replace(document, stop=stop)
