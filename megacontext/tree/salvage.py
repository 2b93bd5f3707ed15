"""Records of a damaged data file of LMDB's, read without it: whatever leaf pages still hold.

`pages` says whether a file is sound; this takes a file for what it is. A leaf page is one that a table's tree still
leads to, or one that merely looks like a leaf; either gives those of its nodes that lie within it, and big values
are read from the overflow pages that they name. So records survive the loss of every page above them, of both meta
pages, of their neighbours, and of what their own page says of itself.

The nodes of a sound page fill it from the upper bound to its end without a gap. That tells a leaf whose flags are
lost, and pages whose lower bound hides some of their nodes. Sound nodes never overlap either: bytes that name the same
place again and again are a trap, so none is read more than a few dozen times over.

What is found may be wrong, and may be old: pages that the file has given up keep what they held until they are used
again. Deliberately knows no record: checksums tell the sound ones, and the order of the pages the newest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
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
    TABLE,
    TREE_BYTES,
    Pages,
    Tree,
    read_metas,
)

_NODE = struct.Struct("<IHH")
_HEADER = struct.Struct("<QHHHH")
_MOST_READINGS = 32
"""How often over the bytes of a page, or of the file, are read for values. Sound pages need one, stale ones a few."""
_MOST_TXN_ID, _MOST_PAGE = 1 << 40, 1 << 35
"""Beyond any of a file's; the keys of memories, big-endian, nearly all read as more."""


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
    """A node of a leaf that lies within its page. `value` is inline, or the number of an overflow page."""

    flags: int
    key: bytes
    value: bytes
    length: int


class _Search:
    """One pass over a file; each page is taken once."""

    def __init__(self, pages: Pages):
        self._pages = pages
        self._taken = np.zeros(pages.count, bool)
        self._room = _MOST_READINGS * len(pages.raw)
        """Bytes of big values that may still be read."""

    def tables(self, main: Tree) -> list[tuple[str, Tree]]:
        """Names and records of the tables that a table of tables names."""
        found = []
        for number in self._leaves(main):
            named = [node for node in _leaf_nodes(self._page(number))[0] if node.flags == TABLE]
            # A root gone astray may lead to leaves of records, which must not be lost over it.
            self._taken[number] = bool(named)
            found += [(node.key.decode(errors="backslashreplace"), Tree.read(node.value)) for node in named]
        return found

    def reached(self, tables: list[tuple[str, Tree]]) -> Iterator[SalvagedPage]:
        """Leaf pages of tables, in the order of their keys."""
        for name, tree in tables:
            for number in self._leaves(tree):
                page = self._page(number)
                records = self._records(page) if _HEADER.unpack_from(page)[0] == number else []
                self._taken[number] = bool(records)
                if records:
                    yield SalvagedPage(number, name, records)

    def rest(self) -> Iterator[SalvagedPage]:
        """Pages that look like leaves and were not reached."""
        for number in np.flatnonzero(~self._taken).tolist():
            page = self._page(number)
            if _looks_like_leaf(page, number):
                records = [record for record in self._records(page) if not _frees_pages(*record)]
                if records:
                    yield SalvagedPage(number, None, records)

    def _leaves(self, tree: Tree) -> Iterator[int]:
        """Leaf pages below a tree's root, left to right, that were not taken before; takes all on the way."""
        waiting = self._take([tree.root], 1)
        while waiting:
            number, depth = waiting.pop()
            page = self._page(number)
            if _is_branch(page, above_leaves=depth < tree.depth):
                waiting += reversed(self._take(_children(page), depth + 1))
            else:
                yield number

    def _take(self, numbers: list[int], depth: int) -> list[tuple[int, int]]:
        """Those pages of the file that were not taken before, with their depth. None waits twice to be looked at."""
        fresh = []
        for number in numbers:
            if number < self._pages.count and not self._taken[number]:
                self._taken[number] = True
                fresh.append((number, depth))
        return fresh

    def _page(self, number: int) -> bytes:
        return self._pages.slice(number * self._pages.page_bytes, self._pages.page_bytes)

    def _records(self, page: bytes) -> list[tuple[bytes, bytes]]:
        """Records of a leaf page whose values are all there."""
        nodes = [node for node in _leaf_nodes(page)[0] if node.flags != TABLE]
        big = self._big_values([node for node in nodes if node.flags == BIG])
        values = (big.get(node) if node.flags == BIG else node.value for node in nodes)
        return [(node.key, value) for node, value in zip(nodes, values, strict=True) if value is not None]

    def _big_values(self, nodes: list[_Node]) -> dict[_Node, bytes]:
        """Values on overflow pages that lie within the file, whatever the headers of those pages say.

        The values of one page fit into the file together. The shortest come first, so that a false length costs only
        itself.
        """
        values: dict[_Node, bytes] = {}
        room = min(self._room, len(self._pages.raw))
        for node in sorted(nodes, key=lambda node: node.length):
            first = int.from_bytes(node.value, "little")
            last = self._pages.count - self._pages.pages_of_value(node.length)
            if META_PAGES <= first <= last and node.length <= room:
                values[node] = self._pages.slice(first * self._pages.page_bytes + HEADER_BYTES, node.length)
                room -= node.length
                self._room -= node.length
        return values


def _is_branch(page: bytes, above_leaves: bool) -> bool:
    """Whether a page of a tree is to be taken for a branch: by what it holds, its flags and its place, in this order.

    The values of a branch's nodes would reach far beyond its end, so what reads as a whole leaf is one.
    """
    flags = _HEADER.unpack_from(page)[2]
    if flags == LEAF or _leaf_nodes(page)[1]:
        return False
    return flags == BRANCH or above_leaves


def _looks_like_leaf(page: bytes, number: int) -> bool:
    """Whether all but one of a leaf's marks are there: its flags, its bounds, its own number."""
    own_number, _, flags, lower, upper = _HEADER.unpack_from(page)
    bounded = HEADER_BYTES < lower <= upper <= len(page)
    if flags == LEAF:
        return bounded or own_number == number
    return bounded and own_number == number and _leaf_nodes(page)[1]


def _leaf_nodes(page: bytes) -> tuple[list[_Node], bool]:
    """Nodes of a page, taken for a leaf, that lie within it; and whether they are all that it holds."""
    lower, upper = struct.unpack_from("<HH", page, HEADER_BYTES - 4)
    pointers, listed = _pointers(page)
    nodes, used = _nodes_at(page, pointers[:listed], HEADER_BYTES + 2 * listed)
    whole = bool(nodes) and (HEADER_BYTES + 2 * listed, used) == (lower, len(page) - upper)
    if not whole and listed < len(pointers):
        # Below the upper bound lies what was deleted: that shall not come back.
        hidden = set(pointers[listed:]) - set(pointers[:listed])
        nodes += _nodes_at(page, sorted(hidden), max(upper, HEADER_BYTES))[0]
    return nodes, whole


def _nodes_at(page: bytes, pointers: list[int], first: int) -> tuple[list[_Node], int]:
    """Nodes that lie between `first` and the end of their page, and the bytes that they use."""
    nodes, used = [], 0
    for pointer in dict.fromkeys(pointers):
        if not first <= pointer <= len(page) - NODE_BYTES:
            continue
        length, flags, key_bytes = _NODE.unpack_from(page, pointer)
        key_end = pointer + NODE_BYTES + key_bytes
        value_end = key_end + (8 if flags == BIG else length)
        known = flags in (0, BIG) or (flags == TABLE and length == TREE_BYTES)
        if known and 0 < key_bytes <= MAX_KEY_BYTES and value_end <= len(page):
            nodes.append(_Node(flags, page[pointer + NODE_BYTES : key_end], page[key_end:value_end], length))
            used += value_end - pointer + 1 & ~1
            if used > _MOST_READINGS * len(page):
                break
    return nodes, used


def _children(page: bytes) -> list[int]:
    """Pages that the nodes of a page, taken for a branch, name."""
    pointers, listed = _pointers(page)
    nodes = (
        _NODE.unpack_from(page, pointer)
        for pointer in pointers[:listed]
        if HEADER_BYTES <= pointer <= len(page) - NODE_BYTES
    )
    return [low | high << 32 for low, high, _ in nodes]


def _pointers(page: bytes) -> tuple[list[int], int]:
    """Offsets of the nodes of a page, never more than a page has room for; and how many of them it admits to.

    Behind those that its lower bound covers come those that look like more. Where the bounds are lost, all are listed.
    """
    lower, upper = struct.unpack_from("<HH", page, HEADER_BYTES - 4)
    most = (len(page) - HEADER_BYTES) // (NODE_BYTES + 2)
    pointers = list(struct.unpack_from(f"<{most}H", page, HEADER_BYTES))
    if HEADER_BYTES <= lower <= upper <= len(page):
        listed = min((lower - HEADER_BYTES) // 2, most)
        return pointers[: max(listed, _plausible_pointers(pointers, len(page)))], listed
    found = _plausible_pointers(pointers, len(page))
    return pointers[:found], found


def _plausible_pointers(pointers: list[int], page_bytes: int) -> int:
    """How many pointers a page seems to have: they go on until the first of its nodes begins."""
    first_node = page_bytes
    for slot, pointer in enumerate(pointers):
        end = HEADER_BYTES + 2 * slot
        if end >= first_node or not end < pointer < page_bytes:
            return slot
        first_node = min(first_node, pointer)
    return len(pointers)


def _frees_pages(key: bytes, value: bytes) -> bool:
    """Whether a record looks like one of the free list: a transaction, a count, so many page numbers descending."""
    if len(key) != 8 or len(value) % 8 or not value:
        return False
    count, numbers = int.from_bytes(value[:8], "little"), np.frombuffer(value, "<u8")[1:]
    if count != len(numbers) or not 1 <= int.from_bytes(key, "little") < _MOST_TXN_ID:
        return False
    return bool((numbers < _MOST_PAGE).all() and (numbers[1:] < numbers[:-1]).all())
