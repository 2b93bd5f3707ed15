"""The nodes of pages of one B+tree, as arrays, held against all that LMDB takes for granted when it reads them.

A page is a header, pointers that grow from its head, and nodes that grow from its end. A sound one knows its own
number and kind; its nodes lie within it and fill it without gap or overlap from the upper bound to the end; their
lengths and flags are such as LMDB writes; their keys rise. Deliberately knows one row of pages at a time: how pages
hang together is the business of `page_tree`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from megacontext.tree.page_file import (
    BIG,
    BRANCH,
    HEADER_BYTES,
    LEAF,
    MAX_KEY_BYTES,
    NODE_BYTES,
    TABLE,
    TREE_BYTES,
    Pages,
)

_PAGE_NUMBER = (1 << 48) - 1
_VALUE_BYTES = (1 << 32) - 1


class Kind(NamedTuple):
    """What the leaves of a tree hold: records (some with overflow pages), or the records of other trees.

    Integer keys are 8 bytes that compare as a little-endian number; other keys compare byte by byte.
    """

    holds_tables: bool = False
    integer_keys: bool = False


class Nodes(NamedTuple):
    """The nodes of some pages, one after another; page r has those from starts[r] up to ends[r]. All int64."""

    row: np.ndarray
    """Page, counted in the array that was asked for."""
    at: np.ndarray
    """Offset in the file."""
    low: np.ndarray
    """Length of a leaf's value in bytes, or number of a branch's child."""
    flags: np.ndarray
    key_bytes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def slot(self, node: int) -> int:
        """Number of a node within its page."""
        return node - self.starts[self.row[node]]


class Unsound(Exception):
    """Pages whose nodes cannot be trusted: rows of the array that was asked for, and what is wrong with the i-th."""

    def __init__(self, rows: np.ndarray, what: Callable[[int], str]):
        self.rows = rows
        self.what = what


class NodeReader:
    """Reads the nodes of pages of one kind of tree."""

    def __init__(self, pages: Pages, kind: Kind):
        self._pages = pages
        self._kind = kind

    def read(self, numbers: np.ndarray, page_flags: int) -> Nodes:
        """Nodes of the pages `numbers`, int64 (n,), n >= 1, which are to be branches or leaves.

        Raises Unsound for the first rule that some of the pages break; ask again for the others.
        """
        upper, nodes, pointer, key_word = self._nodes(numbers, page_flags)
        size = self._branch_sizes(nodes) if page_flags == BRANCH else self._leaf_sizes(nodes)
        node_end = pointer + size
        _refuse(
            node_end > self._pages.page_bytes,
            lambda i: f"its node {nodes.slot(i)} ends at byte {node_end[i]}",
            nodes.row,
        )
        self._check_filled(nodes, pointer, node_end, upper)
        self._check_order(nodes, key_word, page_flags)
        return nodes

    def _nodes(
        self, numbers: np.ndarray, page_flags: int
    ) -> tuple[np.ndarray, Nodes, np.ndarray, np.ndarray]:
        """Upper bounds of the pages, their nodes' headers, pointers, and first 8 bytes behind the headers."""
        page_bytes = self._pages.page_bytes
        lower, upper = self._bounds(numbers, page_flags)
        counts = (lower - HEADER_BYTES) >> 1
        ends = counts.cumsum()
        starts = ends - counts
        row = np.repeat(np.arange(len(numbers)), counts)
        slots = np.arange(len(row))
        slots += np.repeat((numbers * page_bytes + HEADER_BYTES) // 2 - starts, counts)
        pointer = self._pages.halves[slots].astype(np.int64)
        outside = (pointer < upper[row]) | (pointer > page_bytes - NODE_BYTES) | (pointer & 1 == 1)
        _refuse(outside, lambda i: f"its node {i - starts[row[i]]} begins at byte {pointer[i]}", row)
        at = pointer + (numbers * page_bytes)[row]
        head, key_word = self._pages.words(at, 2).T
        low = (head & (_VALUE_BYTES if page_flags == LEAF else _PAGE_NUMBER)).astype(np.int64)
        flags, key_bytes = (head >> 32).astype(np.int64) & 0xFFFF, (head >> 48).astype(np.int64)
        return upper, Nodes(row, at, low, flags, key_bytes, starts, ends), pointer, key_word

    def _bounds(self, numbers: np.ndarray, page_flags: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound of the pages' free space, bytes (n,)."""
        number, flags, lower, upper = self._pages.headers(numbers)
        _refuse(number != numbers, lambda i: f"it calls itself page {number[i]}")
        _refuse(flags != page_flags, lambda i: f"its flags are {flags[i]:#x} in place of {page_flags:#x}")
        fewest = 2 if page_flags == BRANCH else 1
        bad = (lower < HEADER_BYTES + 2 * fewest) | (lower & 1 == 1)
        bad |= (lower > upper) | (upper > self._pages.page_bytes)
        _refuse(bad, lambda i: f"its free space goes from byte {lower[i]} to {upper[i]}")
        return lower, upper

    def _branch_sizes(self, nodes: Nodes) -> np.ndarray:
        """Bytes that each node of branches takes up."""
        fewest = np.full_like(nodes.key_bytes, 8 if self._kind.integer_keys else 1)
        fewest[nodes.starts] = 0  # the leftmost child needs no key, and often has none
        self._check_keys(nodes, fewest)
        return (NODE_BYTES + nodes.key_bytes + 1) & -2

    def _leaf_sizes(self, nodes: Nodes) -> np.ndarray:
        """Bytes that each node of leaves takes up."""
        self._check_keys(nodes, np.full_like(nodes.key_bytes, 8 if self._kind.integer_keys else 1))
        expected = TABLE if self._kind.holds_tables else nodes.flags & BIG
        _refuse(nodes.flags != expected, lambda i: f"it has a node with flags {nodes.flags[i]:#x}", nodes.row)
        size = NODE_BYTES + nodes.key_bytes + np.where(nodes.flags & BIG, 8, nodes.low)
        # me_nodemax of mdb.c: a page has room for two nodes, and a longer value has overflow pages.
        longest = (((self._pages.page_bytes - HEADER_BYTES) // 2) & -2) - 2
        bad = nodes.low != TREE_BYTES if self._kind.holds_tables else size > longest
        _refuse(bad, lambda i: f"it has a value of {nodes.low[i]} bytes", nodes.row)
        return (size + 1) & -2

    def _check_keys(self, nodes: Nodes, fewest: np.ndarray) -> None:
        most = 8 if self._kind.integer_keys else MAX_KEY_BYTES
        bad = (nodes.key_bytes < fewest) | (nodes.key_bytes > most)
        _refuse(bad, lambda i: f"it has a key of {nodes.key_bytes[i]} bytes", nodes.row)

    def _check_filled(
        self, nodes: Nodes, pointer: np.ndarray, node_end: np.ndarray, upper: np.ndarray
    ) -> None:
        """Nodes must fill their page from its upper bound to its end."""
        gaps = self._gaps(pointer, node_end, nodes.row, nodes.starts, nodes.ends, upper)
        if not gaps.any():
            return
        # Pages that were not filled in the order of their keys: follow the nodes from the end of the page backwards.
        rows = np.flatnonzero(gaps)
        chosen = np.flatnonzero(gaps[nodes.row])
        chosen = chosen[np.lexsort((-pointer[chosen], nodes.row[chosen]))]
        ends = (nodes.ends - nodes.starts)[rows].cumsum()
        starts = np.append(0, ends[:-1])
        row = np.searchsorted(rows, nodes.row[chosen])
        gaps[rows] = self._gaps(pointer[chosen], node_end[chosen], row, starts, ends, upper[rows])
        _refuse(gaps, lambda i: "its nodes overlap or leave gaps")

    def _gaps(
        self,
        pointer: np.ndarray,
        node_end: np.ndarray,
        row: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        upper: np.ndarray,
    ) -> np.ndarray:
        """Whether the nodes of each page, taken from its end backwards, fail to fill it down to the upper bound."""
        joined = np.empty(len(pointer), bool)
        joined[1:] = node_end[1:] == pointer[:-1]
        joined[starts] = node_end[starts] == self._pages.page_bytes
        gaps = pointer[ends - 1] != upper
        gaps[row[~joined]] = True
        return gaps

    def _check_order(self, nodes: Nodes, key_word: np.ndarray, page_flags: int) -> None:
        """Keys must rise within each page. What 8 bytes decide is decided for all at once."""
        pairs = np.ones(len(nodes.row), bool)
        pairs[nodes.ends - 1] = False
        if page_flags == BRANCH:
            pairs[nodes.starts] = False
        word = key_word if self._kind.integer_keys else key_word.byteswap()
        doubtful = word[:-1] >= word[1:]
        short = nodes.key_bytes < 8
        if short.any():
            doubtful |= short[:-1] | short[1:]
        left = np.flatnonzero(pairs[:-1] & doubtful)
        right = left + 1
        sign = self.compare(nodes.at[left], nodes.key_bytes[left], nodes.at[right], nodes.key_bytes[right])
        bad = np.zeros(len(nodes.row), bool)
        bad[left[sign >= 0]] = True
        _refuse(bad, lambda i: f"its key {nodes.slot(i)} is not below the next", nodes.row)

    def compare(
        self, at: np.ndarray, key_bytes: np.ndarray, other_at: np.ndarray, other_bytes: np.ndarray
    ) -> np.ndarray:
        """-1, 0 or 1 for each pair of nodes, as the first one's key lies before, with or after the other's."""
        sign = np.sign(
            key_bytes - other_bytes
        )  # of two keys that agree as far as both go, the longer is greater
        tied = np.arange(len(at))
        for offset in range(0, int(max(key_bytes.max(initial=0), other_bytes.max(initial=0))), 8):
            words = self._key_words(at[tied], key_bytes[tied], offset)
            others = self._key_words(other_at[tied], other_bytes[tied], offset)
            sign[tied[words < others]] = -1
            sign[tied[words > others]] = 1
            tied = tied[words == others]
            if not len(tied):
                break
        return sign

    def _key_words(self, at: np.ndarray, key_bytes: np.ndarray, offset: int) -> np.ndarray:
        """8 bytes of each key from `offset` on as a number that compares like them; zeros where the key has ended."""
        words = self._pages.words(at + NODE_BYTES + offset, 1)[:, 0]
        if self._kind.integer_keys:
            return words
        left_over = key_bytes - offset
        surplus_bits = (8 * np.clip(8 - left_over, 0, 7)).astype(np.uint64)
        return np.where(left_over > 0, words.byteswap() >> surplus_bits << surplus_bits, 0)


def _refuse(bad: np.ndarray, what: Callable[[int], str], row: np.ndarray | None = None) -> None:
    """Raise Unsound if anything is bad. `bad` has an element a page or, with `row`, a node, and so has `what`."""
    if bad.any():
        found = np.flatnonzero(bad)
        rows, firsts = np.unique(found if row is None else row[found], return_index=True)
        raise Unsound(rows, lambda i: what(found[firsts[i]]))
