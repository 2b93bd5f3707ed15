"""LMDB's data file as what it is on disk: pages, two of them meta pages, read without LMDB.

The format is that of mdb.c 0.9.x on 64-bit little-endian machines (MDB_page, MDB_meta, MDB_db). Pages are mapped for
reading and handed out as arrays; every access is bounded by the file's end, whatever the bytes say. Deliberately
believes nothing and judges nothing: what a sound file looks like is the business of `pages`.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megacontext.errors import StorageError

PAGE_SIZES = (4096, 8192, 16384, 32768)
"""Page sizes that LMDB 0.9 can make, in bytes."""
HEADER_BYTES = 16
"""Of a page: own number (8), unused (2), flags (2), lower and upper bound of the free space (2 and 2)."""
NODE_BYTES = 8
"""Of a node before its key: length of the value (4), flags (2), length of the key (2). A branch's has 6 of a page."""
META_PAGES = 2
BRANCH, LEAF, OVERFLOW, META = 0x01, 0x02, 0x04, 0x08
"""Flags of a page."""
BIG, TABLE = 0x01, 0x02
"""Flags of a leaf's node: its value is the number of an overflow page; its value is the record of a tree."""
NO_PAGE = (1 << 64) - 1
"""Root of an empty tree."""
TREE_BYTES = 48
MAX_KEY_BYTES = 511
MAGIC, VERSION = 0xBEEFC0DE, 1

_TREE = struct.Struct("<IHHQQQQQ")
_META = struct.Struct("<QHHIIIQQ48s48sQQ")
_READINGS_OF_METAS = 100


class Tree(NamedTuple):
    """LMDB's record of one B+tree, 48 bytes. The free list's has the page size in `pad`."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int

    @classmethod
    def read(cls, raw: bytes) -> Tree:
        return cls(*_TREE.unpack(raw))


class Meta(NamedTuple):
    """A meta page: where one snapshot begins. `page` is where it lies, `number` what it calls itself."""

    page: int
    number: int
    flags: int
    magic: int
    version: int
    address: int
    map_bytes: int
    free: Tree
    main: Tree
    last_page: int
    txn_id: int

    @classmethod
    def read(cls, page: int, raw: bytes) -> Meta:
        number, _, flags, _, magic, version, address, map_bytes, free, main, *rest = _META.unpack(raw)
        trees = Tree.read(free), Tree.read(main)
        return cls(page, number, flags, magic, version, address, map_bytes, *trees, *rest)


def read_metas(file: Path) -> tuple[int, tuple[Meta, ...]]:
    """Page size, and the two meta pages whatever they say; no meta page if the file is too short for them.

    They are read until two readings agree, because a writer may be replacing one. If neither page tells where the
    second one lies, the smallest page size is taken. Raises StorageError if the disk does not give them,
    FileNotFoundError if there is no such file.
    """
    found = _read_metas(file)
    for _ in range(_READINGS_OF_METAS):
        again = _read_metas(file)
        if again == found:
            break
        found = again
    return found


def _read_metas(file: Path) -> tuple[int, tuple[Meta, ...]]:
    try:
        with open(file, "rb") as opened:
            first, *others = (os.pread(opened.fileno(), _META.size, at) for at in (0, *PAGE_SIZES))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(file, error) from error
    seconds = {
        size: Meta.read(1, raw)
        for size, raw in zip(PAGE_SIZES, others, strict=True)
        if len(raw) == _META.size
    }
    if not seconds:
        return PAGE_SIZES[0], ()
    meta = Meta.read(0, first)
    # The second one lies behind the first page, however long that is, and says itself how long.
    fitting = [size for size, second in seconds.items() if (second.magic, second.free.pad) == (MAGIC, size)]
    claimed = [size for size in seconds if (meta.magic, meta.free.pad) == (MAGIC, size)]
    page_bytes = [*fitting, *claimed, PAGE_SIZES[0]][0]
    return page_bytes, (meta, seconds[page_bytes])


def unreadable(file: Path, error: Exception) -> StorageError:
    """The error of a disk that does not give what lies on it."""
    return StorageError(f"the pages of {file} must be readable, the system says {error}; check the disk")


class Pages:
    """The pages of a data file, mapped for reading. No access leaves the file as it was when it was mapped.

    Raises StorageError if it cannot be mapped, FileNotFoundError if there is no such file.
    """

    def __init__(self, file: Path, page_bytes: int):
        self.file_bytes = file.stat().st_size
        try:
            whole = np.asarray(np.memmap(file, np.uint8, "r")) if self.file_bytes else np.zeros(0, np.uint8)
        except (OSError, ValueError) as error:
            raise unreadable(file, error) from error
        self.page_bytes = page_bytes
        self.count = len(whole) // page_bytes
        self.raw = whole[: self.count * page_bytes]
        """Whole pages, uint8."""
        self.halves = self.raw.view("<u2")
        """The same as 2-byte words: LMDB begins pages, pointers and nodes at even offsets only."""
        self._headers = self.halves.reshape(self.count, page_bytes // 2)[:, : HEADER_BYTES // 2]

    def headers(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Own number (uint64), flags, lower and upper bound (int64) of pages below `count`, each (n,)."""
        words = self._headers[numbers]
        flags, lower, upper = words[:, 5:].T.astype(np.int64)
        return np.ascontiguousarray(words[:, :4]).view("<u8")[:, 0], flags, lower, upper

    def words(self, at: np.ndarray, count: int) -> np.ndarray:
        """`count` 8-byte words from each even offset, uint64 (n, count); beyond the end of the file come zeros."""
        width = 8 * count
        last = len(self.raw) - width
        # Opaque items of the whole width: numpy copies them from any alignment in one go.
        items = np.ndarray((last // 2 + 1,), f"V{width}", buffer=self.raw, strides=(2,))
        found = items[np.minimum(at, last) >> 1].view("<u8").reshape(-1, count)
        for row in np.flatnonzero(at > last):
            found[row] = np.frombuffer(self.slice(at[row], width).ljust(width, b"\0"), "<u8")
        return found

    def page_numbers(self, at: np.ndarray) -> np.ndarray:
        """8-byte numbers at any offsets that leave room for them, uint64 (n,)."""
        return self.raw[at[:, None] + np.arange(8)].view("<u8")[:, 0]

    def slice(self, start: int, length: int) -> bytes:
        """Bytes of the file; fewer where it ends before."""
        return self.raw[start : start + length].tobytes()

    def pages_of_value(self, value_bytes: int | np.ndarray) -> int | np.ndarray:
        """Overflow pages that a value of that length needs."""
        return (value_bytes + HEADER_BYTES - 1) // self.page_bytes + 1
