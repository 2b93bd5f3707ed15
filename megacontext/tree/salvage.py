"""Records of a damaged data file of LMDB's, read without it: whatever leaf pages still hold.

`pages` says whether a file is sound; this takes a file for what it is. A leaf page is one that a table's tree still
leads to, or one that merely looks like a leaf; either gives those of its nodes that lie within it, and big values
are read from the overflow pages that they name. So records survive the loss of every page above them, of both meta
pages, and of their neighbours.

What is found may be wrong, and may be old: pages that the file has given up keep what they held until they are used
again. Deliberately knows no record: checksums tell the sound ones, and the order of the pages the newest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megacontext.tree.page_file import (
    BIG,
    BRANCH,
    HEADER_BYTES,
    LEAF,
    MAGIC,
    MAX_KEY_BYTES,
    META_PAGES,
    NO_PAGE,
    NODE_BYTES,
    OVERFLOW,
    TABLE,
    TREE_BYTES,
    Pages,
    Tree,
    read_metas,
)

_NODE = struct.Struct("<IHH")
_HEADER = struct.Struct("<QHHHH")


class SalvagedPage(NamedTuple):
    """Records (key, value) of one leaf page, in its order, and the table that reaches it, None if none does."""

    page: int
    table: str | None
    records: list[tuple[bytes, bytes]]


def salvage(file: Path) -> Iterator[SalvagedPage]:
    """Every leaf page of `file` that gives a record, whatever state the file is in.

    First come the pages that tables reach from the newest meta page whose table of tables can be read, in the order of
    their keys. Then, by number, the pages that look like leaves and that nothing reaches: cut off by damage above
    them, or free and long outdated. So of two records of one key the first is the one to take. A page that bears
    another's number stands with the last, whoever reaches it, because it may be a stray copy. Records of the free list
    and of the table of tables are left out. Raises StorageError if the disk does not give the pages,
    FileNotFoundError if there is no such file.
    """
    page_bytes, metas = read_metas(file)
    search = _Search(Pages(file, page_bytes))
    for meta in sorted(metas, key=lambda meta: -meta.txn_id):
        if meta.magic != MAGIC:
            continue
        tables = search.tables(meta.main)
        if tables or meta.main.root == NO_PAGE:
            yield from search.reached(tables)
            break
    yield from search.rest()


class _Node(NamedTuple):
    """A node that lies within its page. `value` is where an inline value begins in it."""

    flags: int
    key: bytes
    value: bytes
    child: int


class _Search:
    """One pass over a file; each page is taken once."""

    def __init__(self, pages: Pages):
        self._pages = pages
        self._taken = np.zeros(pages.count, bool)
        self._taken[:META_PAGES] = True

    def tables(self, main: Tree) -> list[tuple[str, Tree]]:
        """Names and records of the tables that a table of tables names."""
        found = []
        for number in self._leaves(main):
            named = [node for node in self._nodes(number, LEAF) if node.flags == TABLE]
            # A root gone astray may lead to leaves of records, which must not be lost over it.
            self._taken[number] = bool(named)
            found += [(node.key.decode(errors="backslashreplace"), Tree.read(node.value)) for node in named]
        return found

    def reached(self, tables: list[tuple[str, Tree]]) -> Iterator[SalvagedPage]:
        """Leaf pages of tables, in the order of their keys."""
        for name, tree in tables:
            for number in self._leaves(tree):
                own_number = self._header(number)[0]
                records = self._records(number) if own_number == number else []
                self._taken[number] = bool(records)
                if records:
                    yield SalvagedPage(number, name, records)

    def rest(self) -> Iterator[SalvagedPage]:
        """Pages that look like leaves and were not reached."""
        for number in np.flatnonzero(~self._taken).tolist():
            _, _, flags, lower, upper = self._header(number)
            if flags == LEAF and HEADER_BYTES < lower <= upper <= self._pages.page_bytes:
                records = [record for record in self._records(number) if not _frees_pages(*record)]
                if records:
                    yield SalvagedPage(number, None, records)

    def _leaves(self, tree: Tree) -> Iterator[int]:
        """Leaf pages below a tree's root, left to right, that were not taken before; takes all on the way."""
        waiting = [(tree.root, 1)]
        while waiting:
            number, depth = waiting.pop()
            if number >= self._pages.count or self._taken[number]:
                continue
            self._taken[number] = True
            flags = self._header(number)[2]
            # Where its own flags are damaged, a page's depth still says what it must have been.
            if flags == BRANCH or (flags != LEAF and depth < tree.depth):
                children = [node.child for node in self._nodes(number, BRANCH)]
                waiting += [(child, depth + 1) for child in reversed(children)]
            else:
                yield number

    def _header(self, number: int) -> tuple[int, int, int, int, int]:
        """Own number, unused, flags, lower and upper bound."""
        return _HEADER.unpack(self._pages.slice(number * self._pages.page_bytes, HEADER_BYTES))

    def _nodes(self, number: int, page_flags: int) -> Iterator[_Node]:
        """Nodes of a page, taken for a branch or a leaf, that lie within it."""
        page_bytes = self._pages.page_bytes
        page = self._pages.slice(number * page_bytes, page_bytes)
        for pointer in self._pointers(page):
            low, flags, key_bytes = _NODE.unpack_from(page, pointer)
            key_end = pointer + NODE_BYTES + key_bytes
            if page_flags == BRANCH:
                yield _Node(0, b"", b"", low | flags << 32)
            elif flags in (0, BIG, TABLE) and 0 < key_bytes <= MAX_KEY_BYTES:
                value_end = key_end + (8 if flags == BIG else low)
                if value_end <= page_bytes and (flags != TABLE or low == TREE_BYTES):
                    yield _Node(flags, page[pointer + NODE_BYTES : key_end], page[key_end:value_end], low)

    def _pointers(self, page: bytes) -> list[int]:
        """Offsets of the nodes of a page at which there is room for a node."""
        lower, upper = struct.unpack_from("<HH", page, HEADER_BYTES - 4)
        if not HEADER_BYTES <= lower <= upper <= len(page):
            lower = _end_of_pointers(page)
        pointers = struct.unpack_from(f"<{(lower - HEADER_BYTES) // 2}H", page, HEADER_BYTES)
        return [pointer for pointer in pointers if lower <= pointer <= len(page) - NODE_BYTES]

    def _records(self, number: int) -> list[tuple[bytes, bytes]]:
        """Records of a leaf page whose values are all there."""
        records = []
        for flags, key, value, length in self._nodes(number, LEAF):
            if flags == BIG:
                value = self._big_value(int.from_bytes(value, "little"), length)
            if flags != TABLE and value is not None:
                records.append((key, value))
        return records

    def _big_value(self, first: int, length: int) -> bytes | None:
        """The value of `length` bytes on the overflow pages from `first` on, if that is what they are."""
        needed = self._pages.pages_of_value(length)
        if not META_PAGES <= first <= self._pages.count - needed:
            return None
        _, _, flags, low, high = self._header(first)
        if flags != OVERFLOW or not needed <= low | high << 16 <= self._pages.count - first:
            return None
        self._taken[first : first + needed] = True
        return self._pages.slice(first * self._pages.page_bytes + HEADER_BYTES, length)


def _end_of_pointers(page: bytes) -> int:
    """Lower bound of a page whose own is lost: pointers go on until the first of its nodes begins."""
    pointers = struct.unpack_from(f"<{(len(page) - HEADER_BYTES) // 2}H", page, HEADER_BYTES)
    first_node = len(page)
    for slot, pointer in enumerate(pointers):
        end = HEADER_BYTES + 2 * slot
        if end >= first_node or not end < pointer < len(page):
            return end
        first_node = min(first_node, pointer)
    return len(page)


def _frees_pages(key: bytes, value: bytes) -> bool:
    """Whether a record looks like one of the free list: a transaction, a count, so many page numbers descending."""
    if len(key) != 8 or len(value) % 8 or not value:
        return False
    count, *numbers = struct.unpack(f"<{len(value) // 8}Q", value)
    return count == len(numbers) and all(one > other for one, other in pairwise(numbers))
