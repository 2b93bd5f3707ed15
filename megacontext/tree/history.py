"""A history as its records: length, tail, blocks of tokens, and the vectors of each gist version.

Reads and checks, and decides nothing: which version is meant, what may be stale, and when something is written is
the affair of `Memory` and of the modules that change a tree. Every read is one short snapshot of the store.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from megacontext.errors import CorruptRecordError, NodeMissingError, ShapeError
from megacontext.tree.documents import Documents
from megacontext.tree.encoder import NO_TOKEN
from megacontext.tree.identity import FORMAT_KEY, Catalogue, Version, read_catalogue
from megacontext.tree.layout import Layout
from megacontext.tree.records import (
    META,
    TOKENS,
    WAY_OUT,
    Record,
    addresses_table,
    gists_table,
    node_keys,
    seal,
    unpack_tokens,
    unseal,
    unseal_rows,
)
from megacontext.tree.store import Store

END_KEY = b"end"
_END = struct.Struct("<QQQ")


class End(NamedTuple):
    """How far a history goes. Length and tail share a record: whoever reads it sees both of one instant."""

    num_tokens: int
    num_documents: int
    revision: int
    """Counts changes of what was there before: gist versions, forgetting."""
    tail: np.ndarray
    """Ids of the unfinished block, int32 (num_tokens % K,)."""

    def record(self) -> Record:
        body = _END.pack(self.num_tokens, self.num_documents, self.revision)
        return END_KEY, seal(META, END_KEY, body + self.tail.astype("<i4").tobytes())


def read_end(value: bytes | None) -> End:
    """What `End.record` wrote. Raises CorruptRecordError."""
    if value is None:
        raise CorruptRecordError(f"a memory must hold the record of its end, this one does not; {WAY_OUT}")
    payload = unseal(META, END_KEY, value, "the end of the history")
    tail = np.frombuffer(payload, dtype="<i4", offset=_END.size).astype(np.int32)
    return End(*_END.unpack_from(payload), tail)


class History:
    """The records of one store, typed."""

    def __init__(self, store: Store, label: str):
        self.store, self.label = store, label
        self._catalogue = read_catalogue(store.read(META, [FORMAT_KEY])[0], label)
        self.seen_revision = -1
        """Of the catalogue that was read last."""
        self.block_size = self._catalogue.block_size
        self.documents = Documents(store, lambda: self.end().num_documents)

    def end(self) -> End:
        (value,) = self.store.read(META, [END_KEY])
        return read_end(value)

    def catalogue(self) -> Catalogue:
        """What the memory says of itself now. Read again only when the end says that it has changed."""
        return self.state()[1]

    def state(self) -> tuple[End, Catalogue]:
        """End and catalogue of one instant."""
        end = self.end()
        if end.revision != self.seen_revision:
            end_value, form = self.store.read(META, [END_KEY, FORMAT_KEY])
            end = read_end(end_value)
            self._catalogue = read_catalogue(form, self.label)
            self.seen_revision = end.revision
        return end, self._catalogue

    def tokens(self, start: int, stop: int, end: End | None = None) -> np.ndarray:
        """Ids of tokens [start, stop), int32. Raises NodeMissingError beyond the history."""
        end = end or self.end()
        if not 0 <= start <= stop <= end.num_tokens:
            raise NodeMissingError(
                f"tokens must lie in [0, {end.num_tokens}), got [{start}, {stop}); ask for what the history holds"
            )
        size = self.block_size
        first, last = start // size, min(-(-stop // size), end.num_tokens // size)
        ids = self.blocks(np.arange(first, max(first, last))).reshape(-1)
        if stop > end.num_tokens - len(end.tail):
            ids = np.concatenate([ids, end.tail])
        return ids[start - first * size : stop - first * size]

    def blocks(self, indices: np.ndarray) -> np.ndarray:
        """Ids of finished blocks, int32 (n, K), in the order asked for."""
        keys = node_keys(1, indices, self.block_size)
        return unpack_tokens(keys, self._present(TOKENS, keys, "blocks of tokens"), self.block_size)

    def before(self, token: int, count: int) -> np.ndarray:
        """The `count` ids in front of `token`, int32; NO_TOKEN stands where the history had not begun."""
        start = max(0, token - count)
        padding = np.full(count - (token - start), NO_TOKEN, dtype=np.int32)
        return np.concatenate([padding, self.tokens(start, token)])

    def gists(self, version: Version, lod: int, indices: np.ndarray) -> np.ndarray:
        """Stored gists of nodes that the version covers, float32 (n, E), in the order asked for."""
        return self._vectors(
            gists_table(version.number), version.gist_layout, lod, indices, f"gists of LOD{lod}"
        )

    def addresses(self, version: Version, indices: np.ndarray) -> np.ndarray:
        """Stored addresses of blocks that the version covers, float32 (n, A), in the order asked for."""
        return self._vectors(addresses_table(version.number), version.address_layout, 1, indices, "addresses")

    def has(self, table: str, lod: int, indices: np.ndarray) -> np.ndarray:
        """Which nodes have a record in a table of vectors, bool (n,)."""
        values = self.store.read(table, node_keys(lod, indices, self.block_size))
        return np.array([value is not None for value in values], dtype=bool)

    def checked(self, lod: int, indices: Sequence[int] | np.ndarray, num_tokens: int) -> np.ndarray:
        """`indices` as int64. Raises NodeMissingError if one is not a complete node of that level."""
        wanted = np.asarray(indices)
        if wanted.size == 0 and wanted.ndim == 1:
            return np.empty(0, dtype=np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise ShapeError(
                f"node indices must be a row of integers, got {wanted.dtype} {wanted.shape}; pass a list of ints"
            )
        count = num_tokens // self.block_size**lod
        if wanted.min() < 0 or wanted.max() >= count:
            wrong = int(wanted.min()) if wanted.min() < 0 else int(wanted.max())
            raise NodeMissingError(
                f"LOD{lod} of this memory has the nodes [0, {count}), got {wrong}; ask for one that exists"
            )
        return wanted.astype(np.int64)

    def _vectors(self, table: str, layout: Layout, lod: int, indices: np.ndarray, what: str) -> np.ndarray:
        if not len(indices):
            return np.empty((0, layout.payload_bytes // 2), dtype=np.float32)
        rows = [
            self._part(table, node_keys(lod, indices, self.block_size, part), stop - start, what)
            for part, (start, stop) in enumerate(layout.cuts())
        ]
        payloads = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
        return payloads.view("<f2").astype(np.float32)

    def _part(self, table: str, keys: list[bytes], width: int, what: str) -> np.ndarray:
        payloads = unseal_rows(table, keys, self._present(table, keys, what), what)
        if payloads.shape[1] != width:
            raise CorruptRecordError(f"{what} must take {width} bytes, got {payloads.shape[1]}; {WAY_OUT}")
        return payloads

    def _present(self, table: str, keys: list[bytes], what: str) -> list[bytes]:
        """Values of records that the end of the history says must exist."""
        values = self.store.read(table, keys)
        if None in values:
            key = keys[values.index(None)]
            raise CorruptRecordError(
                f"{what} must be stored for all of the history, {values.count(None)} of {len(keys)} "
                f"are missing, the first under key {key.hex()}; {WAY_OUT}"
            )
        return values  # type: ignore[return-value]
