"""The tree's records in LMDB: one memory-mapped file, one writer, readers in any number of processes.

    current          the name of the data file, e.g. tree-1.mdb; replaced by renaming, so a whole new file can take over
    tree-N.mdb       the records; tree-N.mdb-lock is LMDB's table of readers
    writer.lock      held by the process that writes, with its id
    stamp            how the last writer left the data file

A write is one transaction, synced when `write` returns. The map grows without anybody noticing: a full map aborts the
transaction, is doubled, and the same batch is written again; a reader that finds a larger map follows it. Read
transactions last as long as one batch, because a long one keeps old pages alive and bloats the file.

LMDB trusts its pages: a flipped byte among page numbers can make it read outside its map. A file that is exactly as
its writer left it (the stamp: size, time of change, number of the last transaction) is opened at once; any other is
first walked by `pages`, which never hands a page to LMDB.

LMDB would let a second writing process wait without a word. A lock file with the holder's process id is taken first
instead (released by the system when that process dies, however it dies), so the second one is told whom it met.
Deliberately knows nothing of trees: tables, keys and bytes.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import lmdb

from megacontext.errors import CorruptRecordError, StorageError, TreeFormatError
from megacontext.tree.pages import SnapshotGone, check_metas, check_pages
from megacontext.tree.records import META, TABLES, WAY_OUT, Record
from megacontext.tree.store import Batch

CURRENT_FILE = "current"
LOCK_FILE = "writer.lock"
STAMP_FILE = "stamp"
DEFAULT_MAP_BYTES = 1 << 28
"""Address space at first, not disk: the file grows with its pages."""

Check = Literal["auto", "always"]
"""When pages are checked before LMDB may touch them: where the stamp does not vouch for them, or always."""

_MOST_TABLES = 128
_MOST_READERS = 1024
_WRITES_BETWEEN_READER_CHECKS = 256
_CHECKS_OF_A_LIVE_FILE = 20
_PROBE_PATIENCE_S = 0.05

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
        self._lock = WriterLock(path / LOCK_FILE) if writable else None
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
            self._stamp = Stamp(self.path / STAMP_FILE, self.data_file)
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
            max_dbs=_MOST_TABLES,
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
        return refused(self.path, error)

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
                    raise refused(self.path, error) from error

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

    def close(self) -> None:
        if os.getpid() == self._process:
            self._environment.close()
        if self._lock is not None:
            self._lock.release()


def put_all(transaction: lmdb.Transaction, table: object, records: Sequence[Record]) -> None:
    """Put records, in key order; appended if they all come behind what is there, so that every page is filled."""
    if not records:
        return
    ordered = sorted(records)
    cursor = transaction.cursor(table)
    behind = not cursor.last() or cursor.key() < ordered[0][0]
    distinct = all(one[0] < other[0] for one, other in pairwise(ordered))
    cursor.putmulti(ordered, append=behind and distinct)


def put_in_place(
    path: Path, name: str, batches: Iterable[Batch], *, map_bytes: int = DEFAULT_MAP_BYTES
) -> None:
    """Write a data file and make it the memory's own. Raises StorageError; then the memory is as it was."""
    try:
        write_data_file(path / name, batches, map_bytes=map_bytes)
        set_current(path, name)
    except OSError as error:
        raise refused(path, error) from error
    Stamp(path / STAMP_FILE, path / name).write(0)


def write_data_file(file: Path, batches: Iterable[Batch], *, map_bytes: int) -> None:
    """A new data file with all the usual tables. It has its name only when all of it is on disk."""
    aside = file.with_name(file.name + ".tmp")
    remove_data_file(aside)
    try:
        # Nothing here is acknowledged before the last line: one sync at the end will do.
        environment = lmdb.open(
            os.fspath(aside), subdir=False, map_size=map_bytes, max_dbs=_MOST_TABLES, sync=False
        )
        try:
            with environment.begin(write=True) as transaction:
                for name in TABLES:
                    environment.open_db(name.encode(), transaction)
            for batch in batches:
                _write_growing(environment, batch)
            environment.sync(True)
        finally:
            environment.close()
        os.replace(aside, file)
        sync_folder(file.parent)
    except lmdb.Error as error:
        remove_data_file(aside)
        raise refused(file.parent, error) from error
    except BaseException:
        remove_data_file(aside)
        raise
    aside.with_name(aside.name + "-lock").unlink(missing_ok=True)


def _write_growing(environment: lmdb.Environment, batch: Batch) -> None:
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for name, records in batch.puts.items():
                    put_all(transaction, environment.open_db(name.encode(), transaction), records)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def data_file_name(generation: int) -> str:
    return f"tree-{generation}.mdb"


def next_data_file(file: Path) -> Path:
    """The name that follows, for a file that takes over."""
    return file.with_name(data_file_name(int(file.name.removeprefix("tree-").removesuffix(".mdb")) + 1))


def current_data_file(path: Path) -> Path:
    """The data file of the memory in `path`. Raises TreeFormatError if it is no memory."""
    try:
        name = (path / CURRENT_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    number = name.removeprefix("tree-").removesuffix(".mdb")
    if not (number.isascii() and number.isdigit() and name == data_file_name(int(number))):
        raise TreeFormatError(
            f"a memory is a folder whose file `{CURRENT_FILE}` names its data, {path} has none that does; check "
            "the path or ingest first"
        )
    return path / name


def newest_data_file(path: Path) -> Path:
    """The data file of a memory whose `current` may be damaged. Raises TreeFormatError if there is no data at all."""
    try:
        named = current_data_file(path)
        if named.is_file():
            return named
    except TreeFormatError:
        pass
    numbers = [file.stem.removeprefix("tree-") for file in path.glob("tree-*.mdb")]
    newest = max((int(number) for number in numbers if number.isascii() and number.isdigit()), default=None)
    return current_data_file(path) if newest is None else path / data_file_name(newest)


def set_current(path: Path, name: str) -> None:
    """Make `name` the data file of the memory, durably and at one instant."""
    aside = path / (CURRENT_FILE + ".tmp")
    with aside.open("w", encoding="ascii") as file:
        file.write(name + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path / CURRENT_FILE)
    sync_folder(path)


def remove_data_file(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.with_name(file.name + "-lock").unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, as fsync does for a file's content."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Stamp:
    """How the writer left the data file: its size, its time of change, its last transaction.

    A hint and never a truth: it is not synced, and one that is missing, torn or out of date vouches for nothing.
    """

    _FORM = struct.Struct("<4sQQQI")
    _MAGIC = b"MCst"

    def __init__(self, path: Path, data_file: Path):
        self._path, self._data_file = path, data_file

    def matches(self) -> bool:
        """Whether the data file is, by size and time, the one that was stamped."""
        size, changed, _ = self._read()
        status = self._data_file.stat()
        return (size, changed) == (status.st_size, status.st_mtime_ns)

    def last_transaction(self) -> int:
        """Number of the last transaction that was stamped for this data file, 0 if unknown."""
        return self._read()[2]

    def write(self, transaction: int | None) -> None:
        """Vouch for the data file as it is now; None keeps the number of the last transaction."""
        status = self._data_file.stat()
        last = self.last_transaction() if transaction is None else transaction
        self._write(status.st_size, status.st_mtime_ns, last)

    def _write(self, size: int, changed: int, last: int) -> None:
        body = self._FORM.pack(self._MAGIC, size, changed, last, self._checksum(size, changed, last))
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(file, body, 0)
        except OSError:
            pass  # a full disk: the next opening checks the pages instead
        finally:
            os.close(file)

    def _read(self) -> tuple[int, int, int]:
        try:
            magic, size, changed, last, checksum = self._FORM.unpack(self._path.read_bytes())
        except (OSError, struct.error):
            return (0, 0, 0)
        if magic != self._MAGIC or checksum != self._checksum(size, changed, last):
            return (0, 0, 0)
        return size, changed, last

    def _checksum(self, size: int, changed: int, last: int) -> int:
        # The file's name is part of it: a stamp says nothing of the file that a compaction puts in place.
        return zlib.crc32(f"{self._data_file.name} {size} {changed} {last}".encode())


class WriterLock:
    """A lock on a file that holds the writer's process id. Raises TreeFormatError naming the holder."""

    def __init__(self, path: Path):
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise refused(path.parent, error) from error
        deadline = time.monotonic() + _PROBE_PATIENCE_S
        while not _try_lock(self._file, fcntl.LOCK_EX):
            # A reader that only asks whether there is a writer holds the lock for an instant.
            if time.monotonic() > deadline:
                holder = _holder(self._file)
                os.close(self._file)
                raise TreeFormatError(
                    f"a memory takes one writer at a time, {path.parent} is being written by process {holder}; "
                    "wait for it, or open the memory for reading"
                )
            time.sleep(0.002)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next writer in. The file stays: deleting it could unlock somebody else's."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1


def writer_of(path: Path) -> str | None:
    """Process id of who writes to the memory in `path` now, None if nobody does."""
    try:
        file = os.open(path / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _try_lock(file, fcntl.LOCK_SH) else _holder(file)
    finally:
        os.close(file)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: int) -> str:
    return os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"


def _identity_of(file: Path) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return (0, 0)
    return status.st_ino, status.st_mtime_ns


def refused(path: Path, error: Exception) -> StorageError:
    """What a disk's refusal becomes."""
    return StorageError(
        f"a memory needs a disk that takes its writes, {path} refused ({error}); what was acknowledged before "
        "stands, make room or repair the disk and go on"
    )


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
