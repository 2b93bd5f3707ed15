"""Arithmetic of the tree: nodes, spans, parents and children, without any stored pointer.

With block size K, level-of-detail (LOD) l and index i name the tokens [i*K**l, (i+1)*K**l). LOD 0 is a token,
LOD 1 a block of K tokens, LOD 2 a block of K blocks, and on without a top. Only complete nodes exist above LOD 0;
what is left at the end of the history is the tail.

Deliberately pure Python: no array library, no idea of what a node stores.
"""

from __future__ import annotations

from typing import NamedTuple

from megacontext.errors import ShapeError


class Span(NamedTuple):
    """Tokens [start, stop) of one history."""

    start: int
    stop: int


class Node(NamedTuple):
    """The `index`-th node of level `lod`."""

    lod: int
    index: int


def node_span(node: Node, block_size: int) -> Span:
    """Tokens that `node` covers."""
    width = block_size**node.lod
    return Span(node.index * width, (node.index + 1) * width)


def parent(node: Node, block_size: int) -> Node:
    """The node one level up whose span contains `node`."""
    return Node(node.lod + 1, node.index // block_size)


def children(node: Node, block_size: int) -> list[Node]:
    """The `block_size` nodes one level down, in time order. Raises ShapeError for a token, which has none."""
    if node.lod < 1:
        raise ShapeError(f"a node needs lod >= 1 to have children, got {node}; tokens are the leaves")
    first = node.index * block_size
    return [Node(node.lod - 1, first + offset) for offset in range(block_size)]


def complete_counts(num_tokens: int, block_size: int) -> list[int]:
    """How many complete nodes each level has: element l counts LOD l; stops before the first empty level.

    >>> complete_counts(1025, 32)
    [1025, 32, 1]
    """
    if num_tokens < 0 or block_size < 2:
        raise ShapeError(
            f"a history needs num_tokens >= 0 and block_size >= 2, got {num_tokens} and {block_size}"
        )
    counts = []
    while num_tokens > 0:
        counts.append(num_tokens)
        num_tokens //= block_size
    return counts


def coarse_cover(num_tokens: int, block_size: int) -> list[Node]:
    """The fewest complete nodes of LOD >= 1 that tile the finished blocks of a history, in time order.

    At most `block_size - 1` nodes a level below the highest, so the length grows with log(num_tokens): the digits
    of the block count in base `block_size`, coarse first. The tail, num_tokens % block_size tokens, is not covered.

    >>> coarse_cover(1024 + 64 + 5, 32)
    [Node(lod=2, index=0), Node(lod=1, index=32), Node(lod=1, index=33)]
    """
    counts = complete_counts(num_tokens, block_size)
    cover: list[Node] = []
    covered = 0
    for lod in range(len(counts) - 1, 0, -1):
        width = block_size**lod
        cover.extend(Node(lod, index) for index in range(covered // width, counts[lod]))
        covered = counts[lod] * width
    return cover
