"""Tokens that go to the end of a history, and all that follows from them.

A chunk of blocks with its gists, its addresses, the ancestors that it completes, the document's end and the history's
is one transaction. Only the version that the memory reads is kept up, and only while it has no gap; the others are
left behind, for a sweep.

Deliberately ignorant of how a history is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from megacontext.errors import ConfigError, ShapeError
from megacontext.tree.documents import Document, grown, name_record, now
from megacontext.tree.encoder import Encoder
from megacontext.tree.growth import grow
from megacontext.tree.history import End, History
from megacontext.tree.identity import Catalogue
from megacontext.tree.records import DOCUMENTS, META, NAMES, TOKENS, node_keys, pack_tokens
from megacontext.tree.store import Batch

CHUNK_BLOCKS = 2048
"""Blocks encoded together and written in one transaction: 65,536 tokens at K = 32."""
_CHUNK_NUMBERS = 1 << 24
"""Numbers in a chunk's gists at most: wide gists come in smaller chunks."""
BATCH_TOKENS = 4096
"""Tokens that wait in RAM at most where durability is "batch"."""

Durability = Literal["sync", "batch"]


class Receipt(NamedTuple):
    """What `append` answers. Tokens from `durable_tokens` on are in RAM only: a crash would lose them."""

    num_tokens: int
    durable_tokens: int

    @property
    def synced(self) -> bool:
        return self.num_tokens == self.durable_tokens


class Appender:
    """Writes to the end of `history`, keeping up gist version `number` with `encoder` where there is one."""

    def __init__(self, history: History, number: int, encoder: Encoder | None, durability: Durability):
        self._history, self._number, self._encoder = history, number, encoder
        self._durability = durability
        self._pending: list[np.ndarray] = []
        self._document: Document | None = None

    @property
    def num_pending(self) -> int:
        """Tokens that wait in RAM."""
        return sum(map(len, self._pending))

    def append(self, ids: Sequence[int] | np.ndarray) -> Receipt:
        """Add tokens to the history and to the document that is open. Raises ShapeError, StorageError."""
        fresh = _checked_ids(ids)
        if len(fresh):
            self._pending.append(fresh)
        if self._durability == "sync" or self.num_pending >= BATCH_TOKENS:
            self.sync()
        durable = self._history.end().num_tokens
        return Receipt(durable + self.num_pending, durable)

    def sync(self) -> None:
        """Write what is pending; when it returns, all that was appended is on disk."""
        if not self._pending:
            return
        fresh = np.concatenate(self._pending)
        # Whatever goes wrong below is told to the caller once, and not again by the next call.
        self._pending = []
        done = 0
        while done < len(fresh):
            end, catalogue = self._history.state()
            chunk = self._chunk_tokens(catalogue)
            # Chunks end on multiples of their size: siblings rarely have to be read back for a parent.
            taken = fresh[done : done + chunk - end.num_tokens % chunk]
            self._write_chunk(taken, end, catalogue)
            done += len(taken)

    @contextmanager
    def document(
        self, name: str, media_type: str, tags: tuple[str, ...], time: str, digest: str
    ) -> Iterator[Document]:
        """All that is appended inside belongs to one document, which goes on if it was cut off. Raises ConfigError."""
        if self._document is not None:
            raise ConfigError(
                f"one document is written at a time, {self._document.name!r} is open; close it before {name!r}"
            )
        if not name:
            raise ConfigError("a document needs a name; give its file name, or say what it is")
        self.sync()
        last = self._history.documents.last()
        if last is not None and (last.state, last.name, last.digest) == ("open", name, digest):
            begun = last
        else:
            begun = self._begin(name, media_type, tags, time, digest)
        self._document = begun
        try:
            yield begun
            self.sync()
            put_documents(self._history, replace(self._document, state="whole"))
        finally:
            try:
                self.sync()
            finally:
                self._document = None

    def _begin(self, name: str, media_type: str, tags: tuple[str, ...], time: str, digest: str) -> Document:
        end = self._history.end()
        document = Document(
            number=end.num_documents,
            name=name,
            media_type=media_type,
            tags=tags,
            time=time,
            added=now(),
            digest=digest,
            start=end.num_tokens,
            stop=end.num_tokens,
        )
        batch = Batch()
        batch.put(META, [end._replace(num_documents=end.num_documents + 1).record()])
        batch.put(DOCUMENTS, [document.record()])
        batch.put(NAMES, [name_record(document)])
        self._history.store.write(batch)
        return document

    def _write_chunk(self, taken: np.ndarray, end: End, catalogue: Catalogue) -> None:
        """One transaction: tokens, the vectors that follow from them, the document's and the history's end."""
        size = self._history.block_size
        batch = Batch()
        pending = np.concatenate([end.tail, taken])
        whole = len(pending) // size * size
        after = end._replace(num_tokens=end.num_tokens + len(taken), tail=pending[whole:])
        if whole:
            first, blocks = end.num_tokens // size, pending[:whole].reshape(-1, size)
            batch.put(TOKENS, pack_tokens(node_keys(1, np.arange(first, first + len(blocks)), size), blocks))
            changed = self._follow(catalogue, first, blocks, batch)
            if changed != catalogue:
                after = after._replace(revision=end.revision + 1)
                batch.put(META, [changed.record()])
        document = self._document and grown(self._document, after.num_tokens)
        if document is not None:
            batch.put(DOCUMENTS, [document.record()])
        batch.put(META, [after.record()])
        self._history.store.write(batch)
        self._document = document

    def _follow(self, catalogue: Catalogue, first: int, blocks: np.ndarray, batch: Batch) -> Catalogue:
        """Extend the version that is read, if it keeps up and can be; the others are left behind."""
        for version in catalogue.versions:
            ours = version.number == self._number and self._encoder is not None
            if ours and version.frontier is None:
                assert self._encoder is not None
                grow(self._history, self._encoder, version, first, blocks, first + len(blocks), batch)
            else:
                catalogue = catalogue.with_version(version.left_behind(first))
        return catalogue

    def _chunk_tokens(self, catalogue: Catalogue) -> int:
        widest = max((version.gist_width for version in catalogue.versions), default=1)
        return self._history.block_size * chunk_blocks(widest, self._history.block_size)


def put_documents(history: History, *documents: Document) -> None:
    """Write the records of documents anew: one transaction."""
    batch = Batch()
    batch.put(DOCUMENTS, [document.record() for document in documents])
    history.store.write(batch)


def chunk_blocks(gist_width: int, block_size: int) -> int:
    """Blocks of one transaction: CHUNK_BLOCKS, fewer where gists are wide, whole families in any case."""
    families = _CHUNK_NUMBERS // max(1, gist_width) // block_size
    return max(1, min(CHUNK_BLOCKS, families * block_size))


def _checked_ids(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    row = np.asarray(ids)
    if row.size == 0 and row.ndim == 1:
        return np.empty(0, dtype=np.int32)
    if row.ndim != 1 or row.dtype.kind not in "iu":
        raise ShapeError(
            f"token ids must be a row of integers, got {row.dtype} {row.shape}; pass a list of ints"
        )
    if row.min() < 0 or row.max() > 0x7FFFFFFF:
        raise ShapeError(
            f"token ids must lie in [0, 2**31), got {row.min()} to {row.max()}; check the tokenizer"
        )
    return row.astype(np.int32)
