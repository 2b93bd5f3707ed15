"""Where records are kept: keyed bytes in named tables, written in batches that happen whole or not at all.

`RamStore` keeps the very bytes that a disk store would, which makes "RAM = disk" a property and no promise.
Deliberately knows nothing of trees: tables, keys and bytes.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from megacontext.errors import StorageError
from megacontext.tree.records import TABLES, Record


@dataclass
class Batch:
    """Changes that belong together: what is dropped, then what is deleted, then what is put."""

    puts: dict[str, list[Record]] = field(default_factory=dict)
    deletes: dict[str, list[bytes]] = field(default_factory=dict)
    drops: list[str] = field(default_factory=list)
    """Tables that go as a whole."""

    def put(self, table: str, records: Iterable[Record]) -> None:
        self.puts.setdefault(table, []).extend(records)

    def delete(self, table: str, keys: Iterable[bytes]) -> None:
        self.deletes.setdefault(table, []).extend(keys)


class Store(Protocol):
    """Keyed bytes. One writer, many readers."""

    def write(self, batch: Batch) -> None:
        """Do a batch in one transaction; when it returns, it is durable. A table comes to be with its first record.

        Raises StorageError when the disk refuses; then nothing of the batch has happened.
        """
        ...

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of `keys`, None where there is none, all from one short snapshot."""
        ...

    def scan(self, table: str, after: bytes, limit: int) -> list[Record]:
        """Up to `limit` records with keys above `after`, in key order, from one short snapshot."""
        ...

    def tables(self) -> list[str]:
        """Names of the tables that hold, or have held, records."""
        ...

    @property
    def store_bytes(self) -> int:
        """Bytes that the store takes up: of the file, or of keys and values in memory."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where its files are; None for one without files."""
        ...

    def close(self) -> None: ...


class RamStore:
    """Tables as dictionaries; gone when the process ends."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {name: {} for name in TABLES}

    def write(self, batch: Batch) -> None:
        for name in batch.drops:
            self._tables.pop(name, None)
        for name, keys in batch.deletes.items():
            table = self._tables.get(name, {})
            for key in keys:
                table.pop(key, None)
        for name, records in batch.puts.items():
            self._tables.setdefault(name, {}).update(records)

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(self._tables.get(table, {}).get, keys))

    def scan(self, table: str, after: bytes, limit: int) -> list[Record]:
        records = sorted(self._tables.get(table, {}).items())
        first = bisect.bisect_right(records, after, key=lambda record: record[0])
        return records[first : first + limit]

    def tables(self) -> list[str]:
        return sorted(self._tables)

    @property
    def store_bytes(self) -> int:
        return sum(len(key) + len(value) for table in self._tables.values() for key, value in table.items())

    @property
    def folder(self) -> None:
        return None

    def close(self) -> None:
        """Nothing to release."""


_SCAN_RECORDS = 4096


def scan_all(store: Store, table: str, after: bytes = b"") -> Iterable[Record]:
    """Every record of a table with a key above `after`, in key order, in many short snapshots."""
    while records := store.scan(table, after, _SCAN_RECORDS):
        yield from records
        after = records[-1][0]


def disk_refused(path: Path, error: Exception) -> StorageError:
    """What a disk's refusal of a write becomes."""
    return StorageError(
        f"a memory needs a disk that takes its writes, {path} refused ({error}); what was acknowledged before "
        "stands, make room or repair the disk and go on"
    )
