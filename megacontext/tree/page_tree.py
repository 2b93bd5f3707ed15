"""One of LMDB's B+trees, walked level by level from its root, and whether its pages hang together.

Every page must exist and be reached once over all trees of a snapshot, so that nothing goes in circles or is shared;
leaves lie at one depth; keys stay between the keys that parents part their children by; big values lie whole on
overflow pages of their own; LMDB's counts are those that are counted. A level's pages are read together, a few
hundred at a time, so that only some hundred bytes a page grow with the tree. Deliberately knows nothing of what
trees there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megacontext.tree.page_file import (
    BIG,
    BRANCH,
    HEADER_BYTES,
    LEAF,
    META_PAGES,
    NO_PAGE,
    NODE_BYTES,
    OVERFLOW,
    Pages,
    Tree,
)
from megacontext.tree.page_nodes import Kind, NodeReader, Nodes, Unsound

_CHUNK_PAGES = 512
"""Pages read at once: the arrays of their nodes stay in the processor's cache."""
_MAX_DEPTH = 32
"""LMDB's cursors hold no more pages on top of one another."""


class PageFault(NamedTuple):
    """Something that LMDB would trust and should not: the page, the table that reaches it ("" if none), and what."""

    page: int
    table: str
    what: str


class FaultList:
    """Faults in the order in which they are found: all are counted, the first `most` are kept."""

    def __init__(self, most: int):
        self.kept: list[PageFault] = []
        self.count = 0
        self._most = most

    def add(self, page: int, table: str, what: str) -> None:
        self.add_each(range(1), lambda _: PageFault(int(page), table, what))

    def add_each(self, rows: np.ndarray | range, fault: Callable[[int], PageFault]) -> None:
        """A fault for each row; those that are not kept are not made."""
        self.count += len(rows)
        self.kept += [fault(row) for row in rows[: max(0, self._most - len(self.kept))]]


class Claims:
    """Which pages of a snapshot have been reached. Its pages are those below `end`."""

    def __init__(self, end: int, faults: FaultList):
        self.end = end
        self.reached = np.zeros(end, bool)
        self._faults = faults

    def claim(self, numbers: np.ndarray, parents: np.ndarray, table: str) -> np.ndarray:
        """Whether each page (n,), int64, exists and is reached for the first time; the others are faults."""
        inside = (numbers >= META_PAGES) & (numbers < self.end)
        rows = np.flatnonzero(inside)
        _, firsts = np.unique(numbers[rows], return_index=True)
        fresh = np.zeros(len(numbers), bool)
        fresh[rows[firsts]] = ~self.reached[numbers[rows[firsts]]]
        self.reached[numbers[fresh]] = True

        def outside(row: int) -> PageFault:
            what = f"it leads to page {numbers[row]}, which the snapshot does not have"
            return PageFault(int(parents[row]), table, what)

        def again(row: int) -> PageFault:
            return PageFault(
                int(numbers[row]), table, f"page {parents[row]} leads to it, and so does another"
            )

        self._faults.add_each(np.flatnonzero(~inside), outside)
        self._faults.add_each(np.flatnonzero(inside & ~fresh), again)
        return fresh


@dataclass(frozen=True)
class TableUse:
    """Pages and records of one table, as counted. `record_bytes` sums keys and values, `page_bytes` whole pages."""

    name: str
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    record_bytes: int
    page_bytes: int


class Kept(NamedTuple):
    """A record, and the leaf that it was found on."""

    page: int
    key: bytes
    value: bytes


def tree_doubt(tree: Tree, end: int) -> str | None:
    """What cannot be of the record of a tree whose pages lie below `end`; None if it can."""
    num_pages = tree.branch_pages + tree.leaf_pages + tree.overflow_pages
    if tree.root == NO_PAGE:
        return "is empty, yet counts pages or entries" if tree.depth or num_pages or tree.entries else None
    if not META_PAGES <= tree.root < end:
        return f"begins at page {tree.root}, which the file does not have"
    if not 1 <= tree.depth <= _MAX_DEPTH:
        return f"is {tree.depth} pages deep"
    return f"counts {num_pages} pages" if num_pages > end - META_PAGES else None


class _Level(NamedTuple):
    """Pages of one level, left to right, and where the node stands whose key is the lowest that belongs to each.

    That is the key by which a parent tells the page from its left neighbour; -1 for the leftmost page.
    """

    numbers: np.ndarray
    low_at: np.ndarray
    low_bytes: np.ndarray

    def of(self, rows: np.ndarray | slice) -> _Level:
        return _Level(*(column[rows] for column in self))


class TreeWalk:
    """One walk over one tree. With `keep`, its records are kept beside being measured."""

    def __init__(
        self,
        pages: Pages,
        claims: Claims,
        faults: FaultList,
        table: str,
        tree: Tree,
        kind: Kind,
        keep: bool = False,
    ):
        self.kept: list[Kept] = []
        self._pages = pages
        self._claims = claims
        self._faults = faults
        self._table = table
        self._tree = tree
        self._keep = keep
        self._nodes = NodeReader(pages, kind)
        self._num_pages = {BRANCH: 0, LEAF: 0, OVERFLOW: 0}
        self._entries = 0
        self._record_bytes = 0

    def run(self) -> TableUse:
        """Walk, add the faults to the list, and tell what was counted."""
        before = self._faults.count
        if self._tree.root != NO_PAGE:
            self._walk()
        counted = (*self._num_pages.values(), self._entries)
        if self._faults.count == before and counted != self._tree[3:7]:
            self._fault(
                self._tree.root,
                f"branch, leaf and overflow pages and entries below it are {counted}, LMDB counts {self._tree[3:7]}",
            )
        page_bytes = sum(self._num_pages.values()) * self._pages.page_bytes
        return TableUse(self._table, self._tree.depth, *counted, self._record_bytes, page_bytes)

    def _fault(self, page: int, what: str) -> None:
        self._faults.add(page, self._table, what)

    def _walk(self) -> None:
        root = np.array([self._tree.root])
        level = _Level(root, np.array([-1]), np.array([-1])).of(self._claims.claim(root, root, self._table))
        for depth in range(1, self._tree.depth + 1):
            level = self._read_level(level, LEAF if depth == self._tree.depth else BRANCH)

    def _read_level(self, level: _Level, page_flags: int) -> _Level:
        """Check the pages of a level, and return the level below: none below leaves."""
        below, edges = [level.of(slice(0))], []
        for start in range(0, len(level.numbers), _CHUNK_PAGES):
            sound, nodes = self._sound_nodes(level.of(slice(start, start + _CHUNK_PAGES)), page_flags)
            if nodes is None:
                continue
            self._num_pages[page_flags] += len(sound.numbers)
            edges.append((*sound, *_edges(nodes, page_flags)))
            if page_flags == BRANCH:
                below.append(self._children(sound, nodes))
            else:
                self._measure(sound.numbers[nodes.row], nodes)
        if edges:
            self._check_edges(*(np.concatenate(columns) for columns in zip(*edges, strict=True)))
        return _Level(*(np.concatenate(columns) for columns in zip(*below, strict=True)))

    def _sound_nodes(self, level: _Level, page_flags: int) -> tuple[_Level, Nodes | None]:
        """Those pages that are sound, and their nodes; the others are faults."""
        while len(level.numbers):
            try:
                return level, self._nodes.read(level.numbers, page_flags)
            except Unsound as unsound:
                numbers, what = level.numbers[unsound.rows], unsound.what
                self._faults.add_each(
                    np.arange(len(numbers)),
                    lambda i, n=numbers, w=what: PageFault(int(n[i]), self._table, w(i)),
                )
                level = level.of(np.delete(np.arange(len(level.numbers)), unsound.rows))
        return level, None

    def _check_edges(
        self,
        numbers: np.ndarray,
        low_at: np.ndarray,
        low_bytes: np.ndarray,
        first_at: np.ndarray,
        first_bytes: np.ndarray,
        last_at: np.ndarray,
        last_bytes: np.ndarray,
    ) -> None:
        """The key that parts two neighbours lies above the left one's last and not above the right one's first."""
        rows = np.flatnonzero(low_at >= 0)
        sign = self._nodes.compare(low_at[rows], low_bytes[rows], first_at[rows], first_bytes[rows])
        for number in numbers[rows[sign > 0]]:
            self._fault(number, "its first key lies below those that its parent sends there")
        rows = rows[rows > 0]
        sign = self._nodes.compare(last_at[rows - 1], last_bytes[rows - 1], low_at[rows], low_bytes[rows])
        for number in numbers[rows[sign >= 0] - 1]:
            self._fault(number, "its last key lies above those that its parent sends there")

    def _children(self, level: _Level, nodes: Nodes) -> _Level:
        low_at, low_bytes = nodes.at.copy(), nodes.key_bytes.copy()
        low_at[nodes.starts], low_bytes[nodes.starts] = level.low_at, level.low_bytes
        fresh = self._claims.claim(nodes.low, level.numbers[nodes.row], self._table)
        return _Level(nodes.low, low_at, low_bytes).of(fresh)

    def _measure(self, leaves: np.ndarray, nodes: Nodes) -> None:
        """Count records, follow those with overflow pages, and keep what is asked for. `leaves`: page of each."""
        self._entries += len(leaves)
        self._record_bytes += int(nodes.key_bytes.sum() + nodes.low.sum())
        value_at = nodes.at + NODE_BYTES + nodes.key_bytes
        whole = np.ones(len(leaves), bool)
        big = np.flatnonzero(nodes.flags & BIG)
        if len(big):
            value_at[big], whole[big] = self._follow(leaves[big], value_at[big], nodes.low[big])
        if self._keep:
            for i in np.flatnonzero(whole):
                key = self._pages.slice(nodes.at[i] + NODE_BYTES, nodes.key_bytes[i])
                self.kept.append(Kept(int(leaves[i]), key, self._pages.slice(value_at[i], nodes.low[i])))

    def _follow(
        self, leaves: np.ndarray, at: np.ndarray, value_bytes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of the values whose first page is named at `at`, and whether each is whole; claims their pages."""
        end = self._claims.end
        named = self._pages.page_numbers(at)
        there = (named >= META_PAGES) & (named < end)
        first = np.where(there, named, META_PAGES).astype(np.int64)
        number, flags, low, high = self._pages.headers(first)
        count = low | high << 16
        # More pages than the value needs are in order: LMDB leaves them to a value that became smaller at once.
        sound = (number == named) & (flags == OVERFLOW)
        sound &= (count >= self._pages.pages_of_value(value_bytes)) & (count <= end - first)

        def nowhere(i: int) -> PageFault:
            return PageFault(
                int(leaves[i]), self._table, f"it has a value on page {named[i]}, which is not there"
            )

        def no_value(i: int) -> PageFault:
            what = f"it calls itself page {number[i]} of {count[i]}, flags {flags[i]:#x}, where page {leaves[i]} has "
            return PageFault(int(first[i]), self._table, what + f"a value of {value_bytes[i]} bytes")

        self._faults.add_each(np.flatnonzero(~there), nowhere)
        self._faults.add_each(np.flatnonzero(there & ~sound), no_value)
        whole = there & sound
        self._claim_runs(first[whole], count[whole], leaves[whole])
        return first * self._pages.page_bytes + HEADER_BYTES, whole

    def _claim_runs(self, first: np.ndarray, count: np.ndarray, leaves: np.ndarray) -> None:
        num_pages = int(count.sum())
        self._num_pages[OVERFLOW] += num_pages
        if num_pages > self._claims.end:
            # More pages than there are: some are claimed twice, and naming them all might take any amount of memory.
            self._fault(leaves[0], "its values have pages in common")
            return
        numbers = np.repeat(first - (count.cumsum() - count), count) + np.arange(num_pages)
        self._claims.claim(numbers, np.repeat(leaves, count), self._table)


def _edges(nodes: Nodes, page_flags: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the first and the last key of each page stand, and their lengths: a branch's first node has none."""
    firsts, lasts = nodes.starts + (page_flags == BRANCH), nodes.ends - 1
    return nodes.at[firsts], nodes.key_bytes[firsts], nodes.at[lasts], nodes.key_bytes[lasts]
