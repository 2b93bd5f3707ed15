"""One writer at a time, and a sentence that names it for the second.

LMDB would let a second writing process wait without a word. A file with the holder's process id is locked first
instead; the system lets go of it when that process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from megacontext.errors import TreeFormatError
from megacontext.tree.store import disk_refused

LOCK_FILE = "writer.lock"
_PROBE_PATIENCE_S = 0.05


class WriterLock:
    """The right to write to the memory in `folder`. Raises TreeFormatError naming the holder."""

    def __init__(self, folder: Path):
        try:
            self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise disk_refused(folder, error) from error
        deadline = time.monotonic() + _PROBE_PATIENCE_S
        while not _try_lock(self._file, fcntl.LOCK_EX):
            # A reader that only asks whether there is a writer holds the lock for an instant.
            if time.monotonic() > deadline:
                holder = _holder(self._file)
                os.close(self._file)
                raise TreeFormatError(
                    f"a memory takes one writer at a time, {folder} is being written by process {holder}; "
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
