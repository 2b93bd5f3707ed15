"""Which file holds a memory's records, and how another takes its place: whole, or not at all.

    current          the name of the data file, e.g. tree-1.mdb; replaced by renaming, so a whole new file can take over
    tree-N.mdb       the records; tree-N.mdb-lock is LMDB's table of readers
    stamp            how the last writer left the data file

Deliberately ignorant of reading and of single writes, which are `lmdb_store`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import lmdb

from megacontext.errors import TreeFormatError
from megacontext.tree.records import TABLES, Record
from megacontext.tree.stamp import Stamp
from megacontext.tree.store import Batch, disk_refused

CURRENT_FILE = "current"
DEFAULT_MAP_BYTES = 1 << 28
"""Address space at first, not disk: the file grows with its pages."""
MOST_TABLES = 128


def is_memory(folder: Path) -> bool:
    """Whether a folder is one that a memory was made in, be it whole or damaged."""
    return (folder / CURRENT_FILE).is_file()


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
        raise disk_refused(path, error) from error
    Stamp(path / name).write(0)


def write_data_file(file: Path, batches: Iterable[Batch], *, map_bytes: int) -> None:
    """A new data file with all the usual tables. It has its name only when all of it is on disk."""
    aside = file.with_name(file.name + ".tmp")
    remove_data_file(aside)
    try:
        # Nothing here is acknowledged before the last line: one sync at the end will do.
        environment = lmdb.open(
            os.fspath(aside), subdir=False, map_size=map_bytes, max_dbs=MOST_TABLES, sync=False
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
        raise disk_refused(file.parent, error) from error
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
