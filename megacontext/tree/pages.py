"""May LMDB be let loose on this data file? Its pages, checked without the library.

LMDB keeps no checksums of its pages and believes what they say. One flipped bit in a page number, a pointer or a
length sends the C library outside its map; one in the list of free pages makes it write over records in use. So a
file that is not known to be as its last writer left it is walked here first: both meta pages, the free list, the
table of tables, and every table. A check costs about as much as reading the file.

Two things look like damage and are none. The file may end before its last page: pages that were taken and given back
within one transaction were never written, and are on the free list. And pages may be neither in use nor free: LMDB
has leaked them, and nothing will ever touch them.

Deliberately knows nothing of records but their lengths: whether a value is the one that was written is for its
checksum to say. What can still be had of a damaged file is the business of `salvage`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megacontext.errors import CorruptRecordError, MegaContextError, TreeFormatError
from megacontext.tree.page_file import (
    MAGIC,
    META,
    META_PAGES,
    NO_PAGE,
    VERSION,
    Meta,
    Pages,
    Tree,
    read_metas,
)
from megacontext.tree.page_nodes import Kind
from megacontext.tree.page_tree import Claims, FaultList, Kept, PageFault, TableUse, TreeWalk, tree_doubt

__all__ = ["PageFault", "PageReport", "SnapshotGone", "TableUse", "check_metas", "check_pages"]

_INTEGER_KEYS, _NO_SUBDIR = 0x08, 0x4000
_MAX_MAP_BYTES = 1 << 47
_EMPTY = Tree(0, 0, 0, 0, 0, 0, 0, NO_PAGE)


class SnapshotGone(MegaContextError):
    """No meta page names the transaction any more: two commits came in between. Begin another and ask again."""


@dataclass(frozen=True)
class PageReport:
    """What a walk over one snapshot found. `num_pages` are those that the snapshot names, written or not.

    `tables` are the named ones, in the order of their names; where there are faults, with what could be counted.
    """

    page_bytes: int
    file_bytes: int
    num_pages: int
    txn_id: int
    tables: tuple[TableUse, ...]
    free_pages: int
    faults: tuple[PageFault, ...]

    @property
    def ok(self) -> bool:
        """Whether LMDB may be let loose on the file."""
        return not self.faults


def check_metas(file: Path) -> None:
    """Look at the two meta pages alone, which LMDB believes when it opens the file.

    Raises TreeFormatError if that is no file of LMDB's, CorruptRecordError if a field of either page is not plausible,
    StorageError if the disk does not give the pages, FileNotFoundError if there is no such file.
    """
    page_bytes, metas = _read_ours(file)
    faults = _meta_faults(page_bytes, metas, file.stat().st_size)
    if faults:
        raise CorruptRecordError(
            f"the meta pages of a memory must be as LMDB wrote them, page {faults[0].page} of {file} is not: "
            f"{faults[0].what}; repair the memory or restore a copy"
        )


def check_pages(file: Path, txn_id: int | None = None, max_faults: int = 20) -> PageReport:
    """Walk all that the meta page of transaction `txn_id` reaches, by default the newest, and report.

    A caller without a `txn_id` makes sure that nobody writes meanwhile. One with a `txn_id` holds a read transaction of
    that id open, so that writers leave its pages alone. At most `max_faults` >= 1 faults are listed. Raises
    SnapshotGone if the transaction's meta page has been overwritten; else as `check_metas`, but damage is reported.
    """
    page_bytes, metas = _read_ours(file)
    meta = max(metas, key=lambda meta: meta.txn_id) if txn_id is None else metas[txn_id % 2]
    if txn_id not in (None, meta.txn_id):
        raise SnapshotGone(f"no meta page of {file} names transaction {txn_id} any more; begin another")
    pages = Pages(file, page_bytes)
    faults = FaultList(max_faults)
    broken = _meta_faults(page_bytes, metas, pages.file_bytes)
    for fault in broken:
        faults.add(*fault)
    # A damaged meta page gives no place to begin. Damage to the older one does not matter to these pages.
    begins = all(fault.page != meta.page for fault in broken)
    tables, free_pages = _Snapshot(pages, meta, faults).walk() if begins else ((), 0)
    num_pages = meta.last_page + 1
    return PageReport(
        page_bytes, pages.file_bytes, num_pages, meta.txn_id, tables, free_pages, tuple(faults.kept)
    )


def _read_ours(file: Path) -> tuple[int, tuple[Meta, ...]]:
    page_bytes, metas = read_metas(file)
    if all(meta.magic != MAGIC for meta in metas):
        raise TreeFormatError(
            f"a memory's data file must be LMDB's, {file} has no meta page; check the path or restore a copy"
        )
    if all(meta.version != VERSION for meta in metas):
        raise TreeFormatError(
            f"a memory's data file must be of LMDB's format {VERSION}, {file} is of {metas[0].version}; "
            "read it with the LMDB that wrote it"
        )
    return page_bytes, metas


def _meta_faults(page_bytes: int, metas: tuple[Meta, ...], file_bytes: int) -> list[PageFault]:
    file_pages = file_bytes // page_bytes
    faults = [
        PageFault(meta.page, "", what)
        for meta in metas
        for what in _meta_doubts(meta, page_bytes, file_pages)
    ]
    older, newer = sorted(metas, key=lambda meta: meta.txn_id)
    # Transaction N writes meta page N % 2, so the other page is that of N - 1; a new file has two zeros.
    if newer.txn_id - older.txn_id != min(newer.txn_id, 1):
        what = f"its transaction {newer.txn_id} does not follow the other meta page's {older.txn_id}"
        faults.append(PageFault(newer.page, "", what))
    return faults


def _meta_doubts(meta: Meta, page_bytes: int, file_pages: int) -> Iterator[str]:
    if (meta.number, meta.flags) != (meta.page, META):
        yield f"it calls itself page {meta.number} with flags {meta.flags:#x}, no meta page"
    if (meta.magic, meta.version) != (MAGIC, VERSION):
        yield f"its mark is {meta.magic:#x}, version {meta.version}"
    if meta.address:
        yield f"it asks to be mapped at the fixed address {meta.address:#x}"
    if meta.free.pad != page_bytes:
        yield f"it says that pages have {meta.free.pad} bytes where they have {page_bytes}"
    if meta.free.flags & ~_NO_SUBDIR != _INTEGER_KEYS:
        yield f"its flags of the free list are {meta.free.flags:#x}"
    if meta.main.flags or meta.main.pad:
        yield f"its flags of the table of tables are {meta.main.flags:#x}, with keys of {meta.main.pad} bytes"
    if meta.txn_id and meta.txn_id % 2 != meta.page:
        yield f"its transaction {meta.txn_id} belongs on the other meta page"
    if not META_PAGES - 1 <= meta.last_page < meta.map_bytes // page_bytes or meta.map_bytes > _MAX_MAP_BYTES:
        yield f"its last page {meta.last_page} does not fit its map of {meta.map_bytes} bytes"
    for name, tree in (("free list", meta.free), ("table of tables", meta.main)):
        doubt = tree_doubt(tree, min(meta.last_page + 1, file_pages))
        if doubt:
            yield f"its {name} {doubt}"


class _Snapshot:
    """All trees that one sound meta page reaches."""

    def __init__(self, pages: Pages, meta: Meta, faults: FaultList):
        self._pages = pages
        self._meta = meta
        self._faults = faults
        self._claims = Claims(min(meta.last_page + 1, pages.count), faults)

    def walk(self) -> tuple[tuple[TableUse, ...], int]:
        """Use of every named table, and the number of free pages."""
        free = self._tree("", self._meta.free, Kind(integer_keys=True), keep=True)
        free.run()
        main = self._tree("", self._meta.main, Kind(holds_tables=True), keep=True)
        main.run()
        tables = tuple(self._walk_table(record) for record in main.kept)
        return tables, self._check_free_list(free.kept)

    def _tree(self, table: str, tree: Tree, kind: Kind, keep: bool = False) -> TreeWalk:
        return TreeWalk(self._pages, self._claims, self._faults, table, tree, kind, keep)

    def _walk_table(self, record: Kept) -> TableUse:
        name = record.key.decode(errors="backslashreplace")
        tree = Tree.read(record.value)
        doubt = tree_doubt(tree, self._claims.end)
        if tree.flags or tree.pad:
            doubt = f"has the flags {tree.flags:#x} and keys of {tree.pad} bytes"
        if doubt:
            self._faults.add(record.page, name, f"its table {name} {doubt}")
            tree = _EMPTY
        return self._tree(name, tree, Kind()).run()

    def _check_free_list(self, records: list[Kept]) -> int:
        """Free pages must be none that is in use, and listed once. Returns how many there are."""
        listed = np.sort(np.concatenate([np.zeros(0, np.int64), *map(self._free_pages, records)]))
        twice = listed[1:][listed[1:] == listed[:-1]]
        written = listed[: np.searchsorted(listed, self._claims.end)]
        in_use = written[self._claims.reached[written]]
        self._faults.add_each(twice, lambda page: PageFault(int(page), "", "it is on the free list twice"))
        self._faults.add_each(
            in_use, lambda page: PageFault(int(page), "", "it is in use and on the free list at once")
        )
        self._check_unwritten(np.unique(listed[np.searchsorted(listed, self._pages.count) :]))
        return len(listed)

    def _free_pages(self, record: Kept) -> np.ndarray:
        """Pages that one transaction gave back, int64; none if the record is not sound."""
        what, listed = self._read_free_record(record)
        if what is None:
            return listed.astype(np.int64)
        self._faults.add(record.page, "", what)
        return np.zeros(0, np.int64)

    def _read_free_record(self, record: Kept) -> tuple[str | None, np.ndarray]:
        txn_id = int.from_bytes(record.key, "little")
        (count,) = struct.unpack_from("<Q", record.value.ljust(8, b"\0"))
        listed = np.zeros(0, np.uint64)
        if not 1 <= txn_id <= self._meta.txn_id:
            return f"it lists pages that were freed by transaction {txn_id}, which is still to come", listed
        if len(record.value) != 8 * (count + 1):
            return f"it lists {count} free pages in {len(record.value)} bytes", listed
        listed = np.frombuffer(record.value, "<u8")[1:]
        if count and not META_PAGES <= listed.min() <= listed.max() <= self._meta.last_page:
            return "it lists free pages that the snapshot does not have", listed
        if (listed[1:] >= listed[:-1]).any():
            return "its free pages are not in descending order", listed
        return None, listed

    def _check_unwritten(self, listed: np.ndarray) -> None:
        """Every page between the file's end and the snapshot's last must be free; those `listed`, ascending, are."""
        if len(listed) < self._meta.last_page + 1 - self._pages.count:
            gaps = np.flatnonzero(listed != self._pages.count + np.arange(len(listed)))
            first = self._pages.count + (int(gaps[0]) if len(gaps) else len(listed))
            self._faults.add(first, "", "the file ends before it, and it is not on the free list")
