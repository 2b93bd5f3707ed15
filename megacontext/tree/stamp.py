"""How the last writer left a data file, so that the next opening need not read all of it.

Deliberately a hint: what depends on it is speed, never what is read.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

STAMP_FILE = "stamp"


class Stamp:
    """How the writer left the data file: its size, its time of change, its last transaction.

    A hint and never a truth: it is not synced, and one that is missing, torn or out of date vouches for nothing.
    """

    _FORM = struct.Struct("<4sQQQI")
    _MAGIC = b"MCst"

    def __init__(self, data_file: Path):
        self._path, self._data_file = data_file.with_name(STAMP_FILE), data_file

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
