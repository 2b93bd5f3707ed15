"""How a vector of any width is cut into records that fill LMDB's pages.

LMDB packs small records into pages and gives a large one pages of its own, so a width that suits neither wastes up to
half of the file: 1,536 bytes fit a page twice and leave a quarter of it empty, 4,096 bytes take two pages. Cutting a
vector into parts avoids that: equal parts that fill a page well, or one part that ends exactly on a page's border and
a small rest. `plan` tries both kinds and takes the fewest parts that come within 5 % of the best.

The arithmetic is that of LMDB 0.9 (mdb.c: PAGEHDRSZ, NODESIZE, me_nodemax). Deliberately knows nothing of what is
stored.
"""

from __future__ import annotations

from dataclasses import dataclass

KEY_BYTES = 8
"""Of the keys of nodes."""
CHECKSUM_BYTES = 4
"""Of a record: a crc32 behind the payload."""
DEFAULT_PAGE_BYTES = 4096

_PAGE_HEADER = 16
_NODE_HEADER = 8
_POINTER = 2
_MOST_PARTS = 250
"""A part's number is one byte of its key."""
_SLACK = 1.05


@dataclass(frozen=True)
class Layout:
    """Where the payload of one node is cut: every part but the last has `part_bytes`."""

    payload_bytes: int
    part_bytes: int

    @property
    def parts(self) -> int:
        """Records of one node, at least 1."""
        return max(1, -(-self.payload_bytes // self.part_bytes))

    def cuts(self) -> list[tuple[int, int]]:
        """Bytes [start, stop) of the payload in each part."""
        starts = range(0, max(1, self.payload_bytes), self.part_bytes)
        return [(start, min(start + self.part_bytes, self.payload_bytes)) for start in starts]

    @property
    def record_bytes(self) -> int:
        """Sum of keys and values of one node."""
        return self.payload_bytes + self.parts * (KEY_BYTES + CHECKSUM_BYTES)


def plan(payload_bytes: int, page_bytes: int = DEFAULT_PAGE_BYTES) -> Layout:
    """The layout with the fewest parts among those within 5 % of the least disk.

    >>> plan(256).parts, plan(1536).part_bytes, plan(4096).cuts()
    (1, 768, [(0, 4076), (4076, 4096)])
    """
    if payload_bytes == 0:
        return Layout(0, 1)
    equal = {-(-payload_bytes // parts) for parts in range(1, 17)}
    whole_pages = range(1, payload_bytes // page_bytes + 2)
    filling = {page_bytes * pages - _PAGE_HEADER - CHECKSUM_BYTES for pages in whole_pages}
    layouts = [
        Layout(payload_bytes, size)
        for size in equal | {size for size in filling if size < payload_bytes}
        if -(-payload_bytes // size) <= _MOST_PARTS
    ]
    cost = {layout: disk_bytes(layout, page_bytes) for layout in layouts}
    good_enough = _SLACK * min(cost.values())
    return min(
        (layout for layout in layouts if cost[layout] <= good_enough),
        key=lambda layout: (layout.parts, cost[layout]),
    )


def disk_bytes(layout: Layout, page_bytes: int = DEFAULT_PAGE_BYTES) -> float:
    """Bytes of file that one node takes among many like it, when pages are filled one after the other."""
    return sum(_part_disk_bytes(stop - start, page_bytes) for start, stop in layout.cuts())


def _part_disk_bytes(payload_bytes: int, page_bytes: int) -> float:
    value = payload_bytes + CHECKSUM_BYTES
    room = page_bytes - _PAGE_HEADER
    node = _even(_NODE_HEADER + KEY_BYTES + value)
    if node <= (room // 2 & ~1) - _POINTER:
        return page_bytes / (room // (node + _POINTER))
    # A large value has pages of its own, and a node with their number among the small ones.
    own_pages = -(-(_PAGE_HEADER + value) // page_bytes)
    return own_pages * page_bytes + _NODE_HEADER + KEY_BYTES + 8 + _POINTER


def _even(count: int) -> int:
    return count + count % 2
