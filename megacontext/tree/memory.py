"""A memory: the whole history of a reader as a tree of tokens, gists and addresses.

Appending cuts the history into blocks of K tokens, asks a gist encoder for the vectors of each finished block
and of every ancestor that it completes, and keeps the unfinished tail as well. A chunk of blocks with all
that follows from it is one transaction, so whatever happens, a memory is a whole tree over what was
acknowledged. Vectors are rounded to float16 when they are made and parents are computed from rounded
children: every route to a tree of the same tokens (one by one, at once, in RAM, on disk, reopened in between)
gives the same tree, if the encoder does its part.

Deliberately ignorant of networks (it takes any `GistEncoder`), of working contexts and of text.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from megacontext.errors import ConfigError, CorruptRecordError, NodeMissingError, ShapeError
from megacontext.tree.encoder import NO_TOKEN, GistEncoder, left_windows
from megacontext.tree.identity import (
    Format,
    Identity,
    check_encoder,
    check_identity,
    check_widths,
    format_record,
    read_format,
)
from megacontext.tree.lmdb_store import DEFAULT_MAP_BYTES, LmdbStore
from megacontext.tree.store import (
    ADDRESSES,
    GISTS,
    META,
    TOKENS,
    RamStore,
    Records,
    Store,
    block_keys,
    node_keys,
    pack_tokens,
    seal,
    seal_rows,
    to_half,
    unpack_tokens,
    unseal,
    unseal_rows,
)

CHUNK_BLOCKS = 2048
"""Blocks encoded together and written in one transaction: 65,536 tokens at K = 32."""

_END_KEY = b"end"


class Memory:
    """The tree of one history. Made by `create` or `open`; a context manager.

    Reading sees what was acknowledged by then, also when another process writes. A memory that is open for
    reading never changes a record.
    """

    def __init__(self, store: Store, form: Format, encoder: GistEncoder | None, writable: bool):
        self._store = store
        self._format = form
        self._encoder = encoder
        self._writable = writable
        self._addresses = np.empty((0, form.address_width), dtype=np.float32)
        self._addresses_known = 0

    @classmethod
    def create(
        cls,
        path: Path | str | None,
        identity: Identity,
        encoder: GistEncoder,
        *,
        map_bytes: int = DEFAULT_MAP_BYTES,
    ) -> Memory:
        """An empty memory in the new folder `path`, or in RAM if that is None, open for writing.

        Raises ConfigError if the path exists or the encoder is not the one that the identity names.
        """
        check_encoder(identity, encoder)
        form = Format(
            identity=identity,
            gist_width=encoder.gist_width,
            address_width=encoder.address_width,
            left_tokens=encoder.left_tokens,
        )
        if path is None:
            store: Store = RamStore()
        else:
            folder = Path(path)
            if folder.exists():
                raise ConfigError(
                    f"a new memory needs a path that does not exist yet, {folder} does; open it or "
                    "choose another"
                )
            folder.mkdir(parents=True)
            try:
                store = LmdbStore.create(folder, map_bytes)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        store.write({META: [_end_record(0, np.empty(0, dtype=np.int32)), format_record(form)]})
        return cls(store, form, encoder, writable=True)

    @classmethod
    def open(
        cls,
        path: Path | str,
        identity: Identity | None,
        encoder: GistEncoder | None = None,
        writable: bool = False,
        *,
        map_bytes: int = DEFAULT_MAP_BYTES,
    ) -> Memory:
        """The memory in `path`. `identity` None accepts any: for looking at a memory without its model.

        Raises TreeFormatError if there is none, it is of another format, was made with other parts, or has a
        writer already; CorruptRecordError if its first record is damaged; ConfigError if writing lacks parts.
        """
        if writable and (identity is None or encoder is None):
            raise ConfigError(
                "writing to a memory needs its identity and its encoder; pass both or open it for reading"
            )
        if identity is not None and encoder is not None:
            check_encoder(identity, encoder)
        store = LmdbStore.open(Path(path), writable, map_bytes)
        try:
            form = read_format(store, str(path))
            if identity is not None:
                check_identity(form.identity, identity, str(path))
            if encoder is not None:
                check_widths(form, encoder, str(path))
        except BaseException:
            store.close()
            raise
        return cls(store, form, encoder, writable)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def identity(self) -> Identity:
        return self._format.identity

    @property
    def block_size(self) -> int:
        """K, tokens of a block and children of a node."""
        return self._format.identity.block_size

    @property
    def gist_width(self) -> int:
        """E, numbers in a gist."""
        return self._format.gist_width

    @property
    def address_width(self) -> int:
        """A, numbers in an address."""
        return self._format.address_width

    @property
    def left_tokens(self) -> int:
        """How many tokens in front of a block its address has seen."""
        return self._format.left_tokens

    @property
    def num_tokens(self) -> int:
        """Length of the history, tail included."""
        return self._end()[0]

    @property
    def num_blocks(self) -> int:
        """Finished blocks."""
        return self.num_tokens // self.block_size

    @property
    def store_bytes(self) -> int:
        """Bytes of the file on disk, or of the records in RAM."""
        return self._store.store_bytes

    def count(self, lod: int) -> int:
        """How many complete nodes level `lod` has."""
        return self.num_tokens // self.block_size**lod

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Ids of tokens [start, stop), int32. Raises NodeMissingError beyond the history."""
        num_tokens, tail = self._end()
        if not 0 <= start <= stop <= num_tokens:
            raise NodeMissingError(
                f"tokens must lie in [0, {num_tokens}), got [{start}, {stop}); ask for what the history holds"
            )
        size = self.block_size
        first, last = start // size, min(-(-stop // size), num_tokens // size)
        ids = self._blocks(np.arange(first, max(first, last))).reshape(-1)
        if stop > num_tokens - len(tail):
            ids = np.concatenate([ids, tail])
        return ids[start - first * size : stop - first * size]

    def blocks(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Ids of finished blocks, int32 (n, K), in the order asked for. Raises NodeMissingError."""
        return self._blocks(self._checked(1, indices))

    def gists(self, lod: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Gists of nodes of one LOD >= 1, float32 (n, E), in the order asked for. Raises NodeMissingError."""
        if lod < 1:
            raise NodeMissingError(
                f"a gist needs lod >= 1, got {lod}; tokens have none, read them with tokens()"
            )
        return self._vectors(
            GISTS, node_keys(lod, self._checked(lod, indices)), self.gist_width, f"gists of LOD{lod}"
        )

    def addresses(self) -> np.ndarray:
        """Addresses of all finished blocks in time order, float32 (num_blocks, A), read-only.

        Kept in memory once read; a later call reads only what was appended since.
        """
        known, wanted = self._addresses_known, self.num_blocks
        if wanted > len(self._addresses):
            grown = np.empty((max(wanted, 2 * known), self.address_width), dtype=np.float32)
            grown[:known] = self._addresses[:known]
            self._addresses = grown
        if wanted > known:
            keys = block_keys(np.arange(known, wanted))
            self._addresses[known:wanted] = self._vectors(ADDRESSES, keys, self.address_width, "addresses")
            self._addresses_known = wanted
        view = self._addresses[:wanted]
        view.flags.writeable = False
        return view

    def left_of(self, block: int) -> np.ndarray:
        """The ids in front of a block, int32 (left_tokens,): what its address has seen besides the block.

        NO_TOKEN stands where the history had not begun. `block` may be the next one, not finished yet.
        """
        if not 0 <= block <= self.num_blocks:
            raise NodeMissingError(
                f"a block index must lie in [0, {self.num_blocks}], got {block}; ask for one that exists"
            )
        stop = block * self.block_size
        start = max(0, stop - self.left_tokens)
        padding = np.full(self.left_tokens - (stop - start), NO_TOKEN, dtype=np.int32)
        return np.concatenate([padding, self.tokens(start, stop)])

    def append(self, ids: Sequence[int] | np.ndarray) -> None:
        """Add tokens to the end of the history. When it returns, they are durable; an empty append is fine.

        Written in chunks of CHUNK_BLOCKS blocks, each with its gists, addresses and the ancestors that it
        completes in one transaction. After an error the memory holds the chunks before it.
        Raises ShapeError for ids that are no row of integers in [0, 2**31), or vectors of a wrong shape.
        """
        if not self._writable or self._encoder is None:
            raise ConfigError(
                "appending needs a memory opened with writable=True and its encoder, this one is "
                "open for reading"
            )
        fresh = _checked_ids(ids)
        size = self.block_size
        num_tokens, tail = self._end()
        done = 0
        while done < len(fresh):
            # Chunks end on multiples of CHUNK_BLOCKS: siblings rarely have to be read back for a parent.
            room = CHUNK_BLOCKS * size - num_tokens % (CHUNK_BLOCKS * size)
            taken = fresh[done : done + room]
            pending = np.concatenate([tail, taken])
            whole = len(pending) // size * size
            tables: dict[str, Records] = {}
            if whole:
                tables = self._grow(num_tokens // size, pending[:whole].reshape(-1, size))
            num_tokens, tail = num_tokens + len(taken), pending[whole:]
            self._store.write({**tables, META: [_end_record(num_tokens, tail)]})
            done += len(taken)

    def _grow(self, first: int, blocks: np.ndarray) -> dict[str, Records]:
        """Records of `blocks` (n, K), which begin at `first`, and of every ancestor that they complete."""
        assert self._encoder is not None
        n, size = blocks.shape
        left = left_windows(self.left_of(first), blocks, self.left_tokens)
        gists, addresses = self._encoder.encode_blocks(blocks, left)  # (n, K) -> (n, E), (n, A)
        level = to_half(_shaped(gists, (n, self.gist_width), "encode_blocks' gists"), "gists")
        address = to_half(
            _shaped(addresses, (n, self.address_width), "encode_blocks' addresses"), "addresses"
        )
        keys = block_keys(np.arange(first, first + n))
        records = seal_rows(node_keys(1, np.arange(first, first + n)), level)
        tables = {TOKENS: pack_tokens(keys, blocks), ADDRESSES: seal_rows(keys, address), GISTS: records}
        lod = 1
        while (parents := (first + n) // size - first // size) > 0:
            older = self._siblings_before(lod, first)
            family = np.concatenate([older, level.astype(np.float32)])[: parents * size]
            made = self._encoder.encode_parents(
                family.reshape(parents, size, -1), lod + 1
            )  # (n, K, E) -> (n, E)
            level = to_half(_shaped(made, (parents, self.gist_width), "encode_parents' gists"), "gists")
            lod, first, n = lod + 1, first // size, parents
            records += seal_rows(node_keys(lod, np.arange(first, first + n)), level)
        return tables

    def _siblings_before(self, lod: int, index: int) -> np.ndarray:
        """Stored gists of the older siblings of a node that is being made, float32 (0 to K - 1, E)."""
        oldest = index - index % self.block_size
        return self._vectors(
            GISTS, node_keys(lod, np.arange(oldest, index)), self.gist_width, f"gists of LOD{lod}"
        )

    def _end(self) -> tuple[int, np.ndarray]:
        """Length of the history and ids of its unfinished tail, of one instant."""
        (value,) = self._store.read(META, [_END_KEY])
        if value is None:
            raise CorruptRecordError(
                "a memory must hold the record of its end, this one does not; restore a copy of the memory"
            )
        payload = unseal(_END_KEY, value, "the end of the history")
        return int.from_bytes(payload[:8], "little"), np.frombuffer(payload, dtype="<i4", offset=8).astype(
            np.int32
        )

    def _checked(self, lod: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(indices)
        if wanted.size == 0:
            return np.empty(0, dtype=np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise ShapeError(
                f"node indices must be a row of integers, got {wanted.dtype} {wanted.shape}; pass a "
                "list of ints"
            )
        count = self.count(lod)
        if wanted.min() < 0 or wanted.max() >= count:
            wrong = wanted[(wanted < 0) | (wanted >= count)][0]
            raise NodeMissingError(
                f"LOD{lod} of this memory has the nodes [0, {count}), got {wrong}; ask for one that exists"
            )
        return wanted

    def _blocks(self, indices: np.ndarray) -> np.ndarray:
        keys = block_keys(indices)
        return unpack_tokens(keys, self._present(TOKENS, keys, "blocks of tokens"), self.block_size)

    def _vectors(self, table: str, keys: list[bytes], width: int, what: str) -> np.ndarray:
        if not keys:
            return np.empty((0, width), dtype=np.float32)
        payloads = unseal_rows(keys, self._present(table, keys, what), what)
        if payloads.shape[1] != 2 * width:
            raise CorruptRecordError(
                f"{what} must take {2 * width} bytes, got {payloads.shape[1]}; restore a copy of the memory"
            )
        return payloads.view("<f2").astype(np.float32)

    def _present(self, table: str, keys: list[bytes], what: str) -> list[bytes]:
        """Values of records that the length of the history says must exist."""
        values = self._store.read(table, keys)
        if None in values:
            key = keys[values.index(None)]
            raise CorruptRecordError(
                f"{what} must be stored for all of the history, {values.count(None)} of {len(keys)} "
                "are missing, the "
                f"first under key {key.hex()}; restore a copy of the memory"
            )
        return values  # type: ignore[return-value]


def _end_record(num_tokens: int, tail: np.ndarray) -> tuple[bytes, bytes]:
    # Length and tail share a record: whoever reads it sees both of one instant, without a longer transaction.
    return _END_KEY, seal(_END_KEY, num_tokens.to_bytes(8, "little") + tail.astype("<i4").tobytes())


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


def _shaped(vectors: np.ndarray, shape: tuple[int, int], what: str) -> np.ndarray:
    if np.shape(vectors) != shape:
        raise ShapeError(
            f"{what} must have shape {shape}, got {np.shape(vectors)}; check the encoder's widths"
        )
    return np.asarray(vectors)
