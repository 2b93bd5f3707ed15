"""The tree's records in LMDB: one memory-mapped file, one writer, readers in any number of processes.

A write is one transaction, synced when `write` returns. The map grows without anybody noticing: a full map aborts the
transaction, is doubled, and the same batch is written again; a reader that finds a larger map follows it. Read
transactions last as long as one batch, because a long one keeps old pages alive and bloats the file.

LMDB trusts its pages: a flipped byte among page numbers can make it read outside its map. A file that is exactly as
its writer left it (the stamp: size, time of change, number of the last transaction) is opened at once; any other is
first walked by `pages`, which never hands a page to LMDB.

The folder's other files are the affair of `data_file`, `stamp` and `writer_lock`.
Deliberately knows nothing of trees: tables, keys and bytes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import lmdb

from megacontext.errors import CorruptRecordError, StorageError, TreeFormatError
from megacontext.tree.data_file import (
    CURRENT_FILE,
    DEFAULT_MAP_BYTES,
    MOST_TABLES,
    current_data_file,
    data_file_name,
    next_data_file,
    put_all,
    put_in_place,
    remove_data_file,
)
from megacontext.tree.pages import SnapshotGone, check_metas, check_pages
from megacontext.tree.records import META, WAY_OUT, Record
from megacontext.tree.stamp import Stamp
from megacontext.tree.store import Batch, disk_refused
from megacontext.tree.writer_lock import WriterLock, writer_of

Check = Literal["auto", "always"]
"""When pages are checked before LMDB may touch them: where the stamp does not vouch for them, or always."""

_MOST_READERS = 1024
_WRITES_BETWEEN_READER_CHECKS = 256
_CHECKS_OF_A_LIVE_FILE = 20

# What LMDB says when pages of the file do not make sense.
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.BadTxnError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.BadValsizeError,
)

T = TypeVar("T")


class LmdbStore:
    """Records of the memory in the folder `path`. Made by `create` or `open`; whoever made it closes it."""

    def __init__(self, path: Path, writable: bool, map_bytes: int, check: Check):
        self.path = path
        self.writable = writable
        self._map_bytes = map_bytes
        self._check = check
        # One transaction at a time in this process: the map must not be resized under another thread's.
        self._turn = threading.RLock()
        self._process = os.getpid()
        self._writes = 0
        self._lock = WriterLock(path) if writable else None
        try:
            if writable:
                self._remove_leftovers()
            self._open_current()
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise

    @classmethod
    def create(cls, path: Path, first: Batch, map_bytes: int = DEFAULT_MAP_BYTES) -> LmdbStore:
        """A store in the existing, empty folder `path` that holds `first`, open for writing."""
        put_in_place(path, data_file_name(1), [first], map_bytes=map_bytes)
        return cls(path, writable=True, map_bytes=map_bytes, check="auto")

    @classmethod
    def open(
        cls, path: Path, writable: bool, map_bytes: int = DEFAULT_MAP_BYTES, check: Check = "auto"
    ) -> LmdbStore:
        """The store in `path`. Raises TreeFormatError if there is none, or another process writes to it.

        Raises CorruptRecordError if its pages are damaged.
        """
        current_data_file(path)
        return cls(path, writable=writable, map_bytes=map_bytes, check=check)

    # Opening one data file.

    def _open_current(self) -> None:
        """Open the data file that `current` names, if its pages can be trusted."""
        for _ in range(10):
            self._seen_current = _identity_of(self.path / CURRENT_FILE)
            self.data_file = current_data_file(self.path)
            self._stamp = Stamp(self.data_file)
            try:
                self._settled(lambda: check_metas(self.data_file))
                self._environment = self._open_environment()
                break
            except FileNotFoundError:
                # A compaction has put another file in place since `current` was read.
                continue
        else:
            raise CorruptRecordError(
                f"{self.path / CURRENT_FILE} must name the memory's data file, it names "
                f"{self.data_file.name}, which is missing; {WAY_OUT}"
            )
        self._handles: dict[str, object] = {}
        try:
            if self._check == "always" or not self._stamp.matches():
                self._settled(lambda: self._mapped(self._check_pages))
                if self.writable:
                    self._stamp.write(None)
            last = self._environment.info()["last_txnid"]
            if self._stamp.last_transaction() > last:
                raise CorruptRecordError(
                    f"the newest writes of a memory must be in its file, {self.data_file} ends with "
                    f"transaction {last} and was left with {self._stamp.last_transaction()}; {WAY_OUT}"
                )
            if self.writable:
                self._environment.reader_check()  # frees the slots of readers that were killed
            if self._mapped(lambda: self._table(META)) is None:
                raise _unreadable(self.path, "it has no tables")
        except BaseException as error:
            self._environment.close()
            if isinstance(error, _DAMAGE):
                raise _damaged(self.data_file, error) from error
            raise

    def _settled(self, check: Callable[[], None]) -> None:
        """Do a check; do it again if it fails while another process writes, which may have been looked at halfway."""
        for attempt in range(_CHECKS_OF_A_LIVE_FILE):
            try:
                return check()
            except (SnapshotGone, CorruptRecordError):
                if attempt + 1 == _CHECKS_OF_A_LIVE_FILE or self.writable or writer_of(self.path) is None:
                    raise
                time.sleep(0.002)

    def _mapped(self, work: Callable[[], T]) -> T:
        """Do `work` with a map of the whole file, also if the writer, in another process, has just grown it."""
        while True:
            try:
                return work()
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)

    def _check_pages(self) -> None:
        """Raises CorruptRecordError if LMDB could stumble over a page of the newest snapshot."""
        with self._environment.begin() as transaction:
            report = check_pages(self.data_file, transaction.id())
        if not report.ok:
            first = report.faults[0]
            raise CorruptRecordError(
                f"the pages of a memory must be whole, {len(report.faults)} or more of {self.data_file} are not, "
                f"the first is page {first.page}{f' of {first.table}' if first.table else ''}: {first.what}; {WAY_OUT}"
            )

    def _open_environment(self) -> lmdb.Environment:
        options = dict(
            subdir=False,
            map_size=max(self._map_bytes, self.data_file.stat().st_size) if self.writable else 0,
            max_dbs=MOST_TABLES,
            max_readers=_MOST_READERS,
            readonly=not self.writable,
            create=False,
        )
        try:
            return lmdb.open(os.fspath(self.data_file), **options)
        except lmdb.Error as error:
            if not self.data_file.exists():
                raise FileNotFoundError(self.data_file) from None
            if not self.writable and not os.access(self.path, os.W_OK):
                # A medium that cannot be written has no room for LMDB's table of readers, and no writer to fear.
                return lmdb.open(os.fspath(self.data_file), lock=False, **options)
            raise _unreadable(self.path, str(error)) from error

    def _remove_leftovers(self) -> None:
        """Files of a compaction that was cut off, before or after its end."""
        current = current_data_file(self.path).name
        for file in self.path.glob("tree-*.mdb*"):
            if file.name not in (current, current + "-lock") and not file.name.endswith(".damaged"):
                file.unlink(missing_ok=True)

    # Writing.

    def write(self, batch: Batch) -> None:
        """Do a batch in one transaction and sync it. Doubles the map as often as that needs."""
        if not self.writable:
            raise TreeFormatError(
                f"writing needs a memory opened with writable=True, {self.path} is open for reading"
            )
        with self._turn:
            self._same_process()
            self._write(batch)
            self._stamp.write(self._environment.info()["last_txnid"])
            self._writes += 1
            if self._writes % _WRITES_BETWEEN_READER_CHECKS == 0:
                self._environment.reader_check()

    def _write(self, batch: Batch) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    self._apply(batch, transaction)
                return
            except lmdb.MapFullError:
                self._handles.clear()  # those made in the transaction that was undone
                self._grow(2 * self._environment.info()["map_size"])
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)
            except _DAMAGE as error:
                self._handles.clear()
                raise _damaged(self.data_file, error) from error
            except lmdb.Error as error:
                raise self._refused(error) from error

    def _apply(self, batch: Batch, transaction: lmdb.Transaction) -> None:
        for name in batch.drops:
            transaction.drop(self._table(name, transaction), delete=True)
            self._handles.pop(name)
        for name, keys in batch.deletes.items():
            table = self._table(name, transaction)
            for key in keys:
                transaction.delete(key, db=table)
        for name, records in batch.puts.items():
            put_all(transaction, self._table(name, transaction), records)

    def _grow(self, map_bytes: int) -> None:
        try:
            self._environment.set_mapsize(map_bytes)
        except (lmdb.Error, MemoryError) as error:
            raise StorageError(
                f"a memory needs room for its map, {map_bytes:,} bytes of address space were refused ({error}); "
                "nothing was written, raise the limit on address space (ulimit -v)"
            ) from error

    def _refused(self, error: lmdb.Error) -> StorageError:
        """The error of a write that the disk refused; the store goes on with what was there before."""
        self._handles.clear()
        if isinstance(error, lmdb.PanicError) or "panic" in str(error).lower():
            self._environment.close()
            self._environment = self._open_environment()
        return disk_refused(self.path, error)

    # Reading.

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        def from_table(transaction: lmdb.Transaction, handle: object | None) -> list[bytes | None]:
            if handle is None:
                return [None] * len(keys)
            if len(keys) == 1:
                return [transaction.get(keys[0], db=handle)]
            found = transaction.cursor(handle).getmulti(keys)
            if len(found) == len(keys):
                return [value for _, value in found]
            values = dict(found)
            return [values.get(key) for key in keys]

        return self._within_a_snapshot(from_table, table)

    def scan(self, table: str, after: bytes, limit: int) -> list[Record]:
        def from_table(transaction: lmdb.Transaction, handle: object | None) -> list[Record]:
            if handle is None:
                return []
            cursor = transaction.cursor(handle)
            # No key lies between a key and the same with a zero byte behind it.
            if not cursor.set_range(after + b"\0" if after else b"\0"):
                return []
            return [record for record, _ in zip(cursor, range(limit), strict=False)]

        return self._within_a_snapshot(from_table, table)

    def tables(self) -> list[str]:
        def names(transaction: lmdb.Transaction, _: object | None) -> list[str]:
            return [
                bytes(key).decode(errors="replace") for key in transaction.cursor().iternext(values=False)
            ]

        return self._within_a_snapshot(names, META)

    def table_pages(self) -> dict[str, dict[str, int]]:
        """What LMDB counts of each table: entries, depth, branch_pages, leaf_pages, overflow_pages, psize."""
        return {
            name: self._within_a_snapshot(lambda transaction, handle: transaction.stat(handle), name)
            for name in self.tables()
        }

    def _within_a_snapshot(self, ask: Callable[[lmdb.Transaction, object | None], T], table: str) -> T:
        """What `ask` finds in one short transaction; it is given LMDB's handle of `table`, None if there is none."""
        with self._turn:
            self._same_process()
            self._follow()

            def once() -> T:
                handle = self._table(table)
                with self._environment.begin() as transaction:
                    return ask(transaction, handle)

            while True:
                try:
                    return self._mapped(once)
                except lmdb.BadDbiError:
                    # Another process has dropped a table that we had a handle of.
                    self._handles.clear()
                except _DAMAGE as error:
                    raise _damaged(self.data_file, error) from error
                except lmdb.Error as error:
                    raise disk_refused(self.path, error) from error

    def _follow(self) -> None:
        """Open the new data file if a compaction in another process has put one in place."""
        if not self.writable and _identity_of(self.path / CURRENT_FILE) != self._seen_current:
            self._environment.close()
            self._open_current()

    def _table(self, name: str, writing: lmdb.Transaction | None = None) -> object | None:
        """LMDB's handle of a table; None if there is none, unless a writing transaction can make it.

        A handle outlives the transaction that it was taken in only if that one commits.
        """
        if name not in self._handles:
            try:
                self._handles[name] = self._environment.open_db(
                    name.encode(), writing, create=writing is not None
                )
            except (lmdb.NotFoundError, lmdb.ReadonlyError):
                return None
        return self._handles[name]

    def _same_process(self) -> None:
        if os.getpid() != self._process:
            raise TreeFormatError(
                f"a memory belongs to the process that opened it, {self.path} was opened by process "
                f"{self._process} and is used by {os.getpid()}; open it again there"
            )

    # The whole file.

    def replace(self, batches: Iterable[Batch]) -> None:
        """Put a new data file of these records in the place of the present one, whole or not at all.

        Readers in other processes go over to the new file at their next read.
        """
        with self._turn:
            self._same_process()
            old = self.data_file
            put_in_place(self.path, next_data_file(old).name, batches, map_bytes=self._map_bytes)
            self._environment.close()
            self._open_current()
            remove_data_file(old)

    @property
    def store_bytes(self) -> int:
        """Bytes of the data file."""
        return self.data_file.stat().st_size

    @property
    def folder(self) -> Path:
        return self.path

    def close(self) -> None:
        if os.getpid() == self._process:
            self._environment.close()
        if self._lock is not None:
            self._lock.release()


def _identity_of(file: Path) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return (0, 0)
    return status.st_ino, status.st_mtime_ns


def _damaged(data_file: Path, error: Exception) -> CorruptRecordError:
    return CorruptRecordError(
        f"the pages of a memory must be whole, LMDB says {error} of {data_file}; {WAY_OUT}"
    )


def _unreadable(path: Path, why: str) -> TreeFormatError:
    if "already open in this process" in why:
        return TreeFormatError(
            f"a process opens a memory once, {path} is open already; close the first or share it"
        )
    return CorruptRecordError(
        f"a memory must be an LMDB file with its tables, {path} is not ({why}); {WAY_OUT}"
    )
