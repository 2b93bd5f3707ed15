"""The tree's records in LMDB: one memory-mapped file, one writer, readers in any number of processes.

A write is one transaction, synced when `write` returns. The map grows without anybody noticing: a full map
aborts the transaction, is doubled, and the same batch is written again; a reader that finds a larger map
follows it. Read transactions last as long as one batch, because a long one keeps old pages alive and bloats
the file.

LMDB itself would let a second writing process wait without a word. A lock file with the holder's process id
is taken first instead (released by the system when that process dies, however it dies), so the second one is
told whom it met. Deliberately knows nothing of trees: tables, keys and bytes.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import lmdb

from megacontext.errors import CorruptRecordError, TreeFormatError
from megacontext.tree.store import TABLES, Records

DATA_FILE = "data.mdb"
LOCK_FILE = "writer.lock"
DEFAULT_MAP_BYTES = 1 << 28
"""Address space at first, not disk: the file grows with its pages."""

# What LMDB says when pages of the file do not make sense.
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError, lmdb.BadTxnError)


class LmdbStore:
    """Records in `path`/data.mdb. Made by `create` or `open`; whoever made it closes it."""

    def __init__(self, path: Path, writable: bool, create: bool, map_bytes: int = DEFAULT_MAP_BYTES):
        self.path = path
        self.writable = writable
        # One transaction at a time in this process: the map must not be resized under another thread's.
        self._turn = threading.Lock()
        self._lock = WriterLock(path / LOCK_FILE) if writable else None
        try:
            self._environment = lmdb.open(
                os.fspath(path),
                map_size=map_bytes if writable else 0,  # 0: a reader takes the size that the file names
                max_dbs=len(TABLES),
                readonly=not writable,
                create=create,
            )
            if writable:
                self._environment.reader_check()  # frees the slots of readers that were killed
            self._tables = {name: self._environment.open_db(name.encode(), create=create) for name in TABLES}
        except lmdb.Error as error:
            if self._lock is not None:
                self._lock.release()
            raise _unreadable(path, error) from error

    @classmethod
    def create(cls, path: Path, map_bytes: int = DEFAULT_MAP_BYTES) -> LmdbStore:
        """An empty store in the existing, empty folder `path`, open for writing."""
        return cls(path, writable=True, create=True, map_bytes=map_bytes)

    @classmethod
    def open(cls, path: Path, writable: bool, map_bytes: int = DEFAULT_MAP_BYTES) -> LmdbStore:
        """The store in `path`. Raises TreeFormatError if there is none, or another process writes to it."""
        if not (path / DATA_FILE).is_file():
            raise TreeFormatError(
                f"a memory is a folder with {DATA_FILE}, {path} has none; check the path or ingest first"
            )
        return cls(path, writable=writable, create=False, map_bytes=map_bytes)

    def write(self, tables: Mapping[str, Records]) -> None:
        """Put every record in one transaction and sync it. Doubles the map as often as that needs."""
        if not self.writable:
            raise TreeFormatError(
                f"writing needs a memory opened with writable=True, {self.path} is open for reading"
            )
        with self._turn:
            self._write(tables)

    def _write(self, tables: Mapping[str, Records]) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for name, records in tables.items():
                        transaction.cursor(self._tables[name]).putmulti(records)
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of `keys`, None where there is none, from one snapshot."""
        try:
            with self._turn:
                while True:
                    try:
                        return self._read(table, keys)
                    except lmdb.MapResizedError:
                        # The writer, in another process, has grown the file beyond our map.
                        self._environment.set_mapsize(0)
        except _DAMAGE as error:
            raise CorruptRecordError(
                f"the pages of a memory must be readable, LMDB says {error} of {self.path}; restore a copy"
            ) from error

    def _read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._environment.begin(db=self._tables[table]) as transaction:
            if len(keys) == 1:
                return [transaction.get(keys[0])]
            found = transaction.cursor().getmulti(keys)
        if len(found) == len(keys):
            return [value for _, value in found]
        values = dict(found)
        return [values.get(key) for key in keys]

    @property
    def store_bytes(self) -> int:
        """Bytes of the data file."""
        return (self.path / DATA_FILE).stat().st_size

    def close(self) -> None:
        self._environment.close()
        if self._lock is not None:
            self._lock.release()


class WriterLock:
    """A lock on a file that holds the writer's process id. Raises TreeFormatError naming the holder."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise TreeFormatError(
                f"a memory takes one writer at a time, {path.parent} is being written by process {holder}; "
                "wait for it, or open the memory for reading"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next writer in. The file stays: deleting it could unlock somebody else's."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1


def _unreadable(path: Path, error: lmdb.Error) -> TreeFormatError:
    if "already open in this process" in str(error):
        return TreeFormatError(
            f"a process opens a memory once, {path} is open already; close the first or share it"
        )
    return TreeFormatError(
        f"a memory must be an LMDB file of four tables, {path} is not ({error}); check the path or "
        "ingest again"
    )
