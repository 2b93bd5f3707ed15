"""A memory: the whole history of a reader as a tree of tokens, gists and addresses.

Appending cuts the history into blocks of K tokens, asks a gist encoder for the vectors of each finished block and of
every ancestor that it completes, and keeps the unfinished tail as well. A chunk of blocks with all that follows from
it is one transaction, so whatever happens, a memory is a whole tree over what was acknowledged.

Tokens are the truth and gists follow from them: a memory may hold its tokens alone, or several versions of gists by
different encoders side by side. An open memory reads one version, from beginning to end; what that version does not
cover yet is refused, made at once (`lazy`) or taken from another version (`stale`), as the caller asks.

Deliberately ignorant of networks (it takes any `GistEncoder`), of working contexts and of text.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import numpy as np

from megacontext.errors import ConfigError, NodeMissingError, StorageError
from megacontext.tree.access import AccessStatistics
from megacontext.tree.appending import Appender, Durability, Receipt, put_documents
from megacontext.tree.derived import remove_derived
from megacontext.tree.documents import Citation, Document, Documents
from megacontext.tree.encoder import Encoder
from megacontext.tree.history import End, History
from megacontext.tree.identity import (
    Catalogue,
    Identity,
    Version,
    check_encoder,
    check_identity,
    check_maker,
    check_widths,
)
from megacontext.tree.lmdb_store import DEFAULT_MAP_BYTES, Check, LmdbStore
from megacontext.tree.records import META
from megacontext.tree.store import Batch, RamStore, Store
from megacontext.tree.vectors import VectorReader

_ACCESS_NODES = 4096
"""Nodes whose access counts wait in RAM at most."""


class Derived(Protocol):
    """Something that was computed from a memory. It may be used again after `close`, and is then made anew."""

    def close(self) -> None:
        """Let go of everything that was read from the memory."""
        ...


D = TypeVar("D", bound=Derived)


class Memory:
    """The tree of one history. Made by `create` or `open`; a context manager.

    Reading sees what was acknowledged by then, also when another process writes. A memory that is open for
    reading never changes a record.
    """

    def __init__(
        self,
        store: Store,
        label: str,
        version: int,
        encoder: Encoder | None,
        writable: bool,
        durability: Durability = "sync",
        lazy: bool = False,
        keep: Callable[[Batch], None] | None = None,
    ):
        """`keep` takes what a lazy memory made; None: it is written where the memory is writable."""
        self.store, self.encoder, self.writable = store, encoder, writable
        self.history = History(store, label)
        self.access = AccessStatistics(store, self.history.block_size)
        self._appender = Appender(self.history, version, encoder, durability)
        self._vectors = VectorReader(self.history, version, encoder if lazy else None, keep or self._keep)
        self._derived: dict[Hashable, Derived] = {}

    @classmethod
    def create(
        cls,
        path: Path | str | None,
        identity: Identity,
        encoder: Encoder | None,
        *,
        durability: Durability = "sync",
        map_bytes: int = DEFAULT_MAP_BYTES,
    ) -> Memory:
        """An empty memory in the new folder `path`, or in RAM if that is None, open for writing.

        Without an encoder it takes tokens only; gists can be made later (`refresh`). Raises ConfigError if the path
        exists or the encoder is not the one that the identity names, StorageError if the disk refuses.
        """
        catalogue = Catalogue(tokenizer=identity.tokenizer, block_size=identity.block_size)
        if encoder is not None:
            check_encoder(identity, encoder)
            first = replace(Version.of(1, identity, encoder), frontier=None)
            catalogue = replace(catalogue, versions=(first,), active=1)
        batch = Batch()
        batch.put(META, [End(0, 0, 0, np.empty(0, dtype=np.int32)).record(), catalogue.record()])
        if path is None:
            store: Store = RamStore()
            store.write(batch)
        else:
            store = _new_store(Path(path), batch, map_bytes)
        return cls(store, str(path or "RAM"), catalogue.active, encoder, True, durability)

    @classmethod
    def open(
        cls,
        path: Path | str,
        identity: Identity | None = None,
        encoder: Encoder | None = None,
        writable: bool = False,
        *,
        durability: Durability = "sync",
        lazy: bool = False,
        check: Check = "auto",
        map_bytes: int = DEFAULT_MAP_BYTES,
    ) -> Memory:
        """The memory in `path`, reading the gist version that was made with the parts of `identity`.

        `identity` None accepts any parts and reads the active version: for looking at a memory without its model, and
        for what needs no gists. `lazy` makes missing gists at the moment they are read, and keeps them if the memory
        is writable. Without an encoder, appending writes tokens only.

        Raises TreeFormatError if there is none, it is of another format, was made with other parts, or has a
        writer already; CorruptRecordError if it is damaged; ConfigError for an encoder without its identity.
        """
        if encoder is not None:
            if identity is None:
                raise ConfigError("an encoder needs the identity that it belongs to; pass both, or neither")
            check_encoder(identity, encoder)
        if lazy and encoder is None:
            raise ConfigError("making gists when they are read needs an encoder; pass one, or lazy=False")
        store = LmdbStore.open(Path(path), writable, map_bytes, check)
        try:
            catalogue = History(store, str(path)).catalogue()
            version = _version_for(catalogue, identity, str(path))
            if encoder is not None and version is not None:
                check_widths(version, encoder, str(path))
        except BaseException:
            store.close()
            raise
        return cls(store, str(path), version.number if version else 0, encoder, writable, durability, lazy)

    def close(self) -> None:
        """Write what is pending, and let go of the store."""
        try:
            if self.writable:
                self.sync()
                self.access.flush()
        finally:
            self._close_derived()
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What it is.

    @property
    def catalogue(self) -> Catalogue:
        """Parts, gist versions, and what was forgotten or lost, as of now."""
        return self.history.catalogue()

    @property
    def version(self) -> Version:
        """The gist version that is read. Raises StaleGistError if there is none, or it is gone."""
        return self._vectors.version()

    def reading(self, number: int, encoder: Encoder | None = None) -> Memory:
        """The same memory, reading another gist version; it shares the store and is not closed by itself.

        With the version's `encoder`, gists that are missing are made when they are read, and kept if this memory is
        writable. Raises TreeFormatError if there is no such version, or the encoder is not its own.
        """
        version = self.catalogue.version(number)
        if encoder is not None:
            check_maker(version, encoder, self.history.label)
        lazy = encoder is not None
        return Memory(
            self.store, self.history.label, number, encoder, writable=False, lazy=lazy, keep=self._keep
        )

    @property
    def identity(self) -> Identity:
        """Fingerprints of the parts; those of the gist version are empty where there is none."""
        catalogue = self.history.catalogue()
        number = self._vectors.number
        version = catalogue.version(number) if number else None
        return Identity(
            tokenizer=catalogue.tokenizer,
            embedding=version.embedding if version else "",
            encoder=version.encoder if version else "",
            block_size=catalogue.block_size,
        )

    @property
    def block_size(self) -> int:
        """K, tokens of a block and children of a node."""
        return self.history.block_size

    @property
    def gist_width(self) -> int:
        """E, numbers in a gist."""
        return self.version.gist_width

    @property
    def address_width(self) -> int:
        """A, numbers in an address."""
        return self.version.address_width

    @property
    def left_tokens(self) -> int:
        """How many tokens in front of a block its address has seen."""
        return self.version.left_tokens

    @property
    def num_tokens(self) -> int:
        """Length of the history, tail and pending tokens included."""
        return self.history.end().num_tokens + self._appender.num_pending

    @property
    def num_blocks(self) -> int:
        """Finished blocks."""
        return self.num_tokens // self.block_size

    @property
    def revision(self) -> int:
        """Grows whenever something that was there before has changed: tokens forgotten, a gist version added."""
        return self.history.end().revision

    @property
    def store_bytes(self) -> int:
        """Bytes of the file on disk, or of the records in RAM."""
        return self.store.store_bytes

    @property
    def documents(self) -> Documents:
        """The sources of the history, by number, name or place."""
        self._read_your_writes()
        return self.history.documents

    def cite(self, start: int, stop: int) -> list[Citation]:
        """The stretches of documents that tokens [start, stop) come from, in order."""
        return self.documents.cite(start, stop)

    def count(self, lod: int) -> int:
        """How many complete nodes level `lod` has."""
        return self.num_tokens // self.block_size**lod

    # Reading.

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Ids of tokens [start, stop), int32. Raises NodeMissingError beyond the history."""
        self._read_your_writes()
        return self.history.tokens(start, stop)

    def blocks(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Ids of finished blocks, int32 (n, K), in the order asked for. Raises NodeMissingError."""
        self._read_your_writes()
        return self.history.blocks(self.history.checked(1, indices, self.num_tokens))

    def left_of(self, block: int) -> np.ndarray:
        """The ids in front of a block, int32 (left_tokens,): what its address has seen besides the block.

        NO_TOKEN stands where the history had not begun. `block` may be the next one, not finished yet.
        """
        self._read_your_writes()
        if not 0 <= block <= self.num_blocks:
            raise NodeMissingError(
                f"a block index must lie in [0, {self.num_blocks}], got {block}; ask for one that exists"
            )
        return self.history.before(block * self.block_size, self.left_tokens)

    def gists(self, lod: int, indices: Sequence[int] | np.ndarray, *, stale: bool = False) -> np.ndarray:
        """Gists of nodes of one LOD >= 1, float32 (n, E), in the order asked for. Raises NodeMissingError.

        Raises StaleGistError for nodes that this memory's version does not cover; `stale` takes those of another
        version of the same width instead, where there is one.
        """
        self._read_your_writes()
        return self._vectors.gists(lod, indices, stale)

    def gists_at(self, lod: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Gists of nodes of any LODs >= 1, float32 (n, E), `lod` and `index` (n,). Raises what `gists` raises."""
        found = np.zeros((len(lod), self.gist_width if len(lod) else 0), dtype=np.float32)
        for level in np.unique(lod):
            at = np.flatnonzero(lod == level)
            found[at] = self.gists(int(level), index[at])
        return found

    def addresses(self, start: int = 0, stop: int | None = None, *, stale: bool = False) -> np.ndarray:
        """Addresses of finished blocks [start, stop) in time order, float32 (n, A), read-only.

        All of them (no arguments) are kept in memory once read, and a later call reads only what was appended since;
        a range is read anew each time. Raises StaleGistError as `gists` does.
        """
        self._read_your_writes()
        if start == 0 and stop is None:
            rows = self._vectors.all_addresses(stale)
        else:
            rows = self._vectors.addresses(start, stop, stale)
        view = rows.view()
        view.flags.writeable = False
        return view

    def covers(self, lod: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which nodes have gists of this memory's version, bool (n,). Raises NodeMissingError."""
        self._read_your_writes()
        return self._vectors.covers(lod, indices)

    def _keep(self, batch: Batch) -> None:
        if self.writable:
            self.store.write(batch)

    # Writing.

    def append(self, ids: Sequence[int] | np.ndarray) -> Receipt:
        """Add tokens to the end of the history, and to the document that is open. An empty append is fine.

        With durability "sync" they are on disk when it returns. With "batch" up to BATCH_TOKENS wait in RAM for the
        next append, read, `sync` or `close`, and the receipt says how many are on disk.

        Written in chunks of CHUNK_BLOCKS blocks, each with its gists, addresses and the ancestors that it
        completes in one transaction. After an error the memory holds the chunks before it. Where the version does not
        keep up with the history, or there is no encoder, only tokens are written; `refresh.sweep` makes the rest.
        Raises ShapeError for ids that are no row of integers in [0, 2**31), or vectors of a wrong shape; StorageError
        if the disk refuses.
        """
        self._require_writable("appending")
        return self._appender.append(ids)

    def sync(self) -> None:
        """Write what is pending; when it returns, all that was appended is on disk."""
        self._appender.sync()

    def document(
        self,
        name: str,
        *,
        media_type: str = "text/plain",
        tags: Sequence[str] = (),
        time: str = "",
        digest: str = "",
    ) -> AbstractContextManager[Document]:
        """All that is appended inside belongs to one document. Gives its record as it stands at the beginning.

        If the last document of the memory has this name and digest and was cut off, it goes on: then the record
        already has tokens. A document that an error or a crash ends stays "open".
        """
        self._require_writable("adding a document")
        return self._appender.document(name, media_type, tuple(tags), time, digest)

    def supersede(self, old: int, new: int) -> None:
        """Say that document `new` replaces `old`, which stays readable."""
        self._require_writable("superseding a document")
        one, other = self.documents[old], self.documents[new]
        if old == new or "forgotten" in (one.state, other.state):
            raise ConfigError(
                f"a document is superseded by another that is there, got {old} ({one.state}) by {new} ({other.state})"
            )
        put_documents(self.history, replace(one, state="superseded", superseded_by=new))

    def record_access(
        self, lod: np.ndarray, index: np.ndarray, expanded: np.ndarray, *, time_ms: int
    ) -> None:
        """Count one refocus step: entries (W,) as levels and indices, and which of them were unfolded."""
        self._require_writable("counting accesses")
        self.access.observe(lod, index, expanded, complete=self.num_blocks, time_ms=time_ms)
        if self.access.pending >= _ACCESS_NODES:
            self.access.flush()

    # What is computed from it.

    @property
    def folder(self) -> Path | None:
        """Where its files are; None for a memory in RAM."""
        return self.store.folder

    def derived(self, key: Hashable, make: Callable[[], D]) -> D:
        """What `make` gave when it was first asked for under `key`: an index, say, that everybody shares.

        It lives as long as the memory, which closes it, and has to see for itself when the history changes.
        """
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]  # type: ignore[return-value]

    def remove_derived(self) -> None:
        """Take away what was computed from the history, here and in files beside it. Raises StorageError."""
        self._require_writable("removing what was derived")
        self._close_derived()
        remove_derived(self.folder)

    def _close_derived(self) -> None:
        for derived in self._derived.values():
            derived.close()

    def _read_your_writes(self) -> None:
        if self._appender.num_pending:
            self._appender.sync()

    def _require_writable(self, what: str) -> None:
        if not self.writable:
            raise ConfigError(
                f"{what} needs a memory opened with writable=True, {self.history.label} is open for reading"
            )


def _new_store(folder: Path, first: Batch, map_bytes: int) -> LmdbStore:
    if folder.exists():
        raise ConfigError(
            f"a new memory needs a path that does not exist yet, {folder} does; open it or choose another"
        )
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"a new memory needs a folder, {folder} cannot be made ({error.strerror}); choose another path"
        ) from None
    try:
        return LmdbStore.create(folder, first, map_bytes)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _version_for(catalogue: Catalogue, identity: Identity | None, path: str) -> Version | None:
    if identity is not None:
        return check_identity(catalogue, identity, path)
    return catalogue.version(catalogue.active) if catalogue.active else None
