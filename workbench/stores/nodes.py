"""What is known of one node: where it stands, what it says, where that comes from, who read it, and what is near it.

Everything is read when it is asked for, and only as much as a page shows: the first tokens of a node that spans
millions, the first documents of thousands. Deliberately ignorant of plots and pages.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import polars as pl

from megacontext.errors import NodeMissingError, StaleGistError
from megacontext.spans import Node, Span, node_span, parent
from megacontext.tree import Citation
from megacontext.tree.access import NodeAccess
from workbench.stores.background import Job
from workbench.stores.memory import MemoryStore
from workbench.stores.run import RunStore
from workbench.stores.vocabulary import Vocabulary

MOST_TOKENS = 512
"""Of a node's text that are shown."""
MOST_DOCUMENTS = 6
MOST_NEAR = 6
_ADDRESSES_AT_ONCE = 4096
"""Blocks of a large node whose addresses stand for it, evenly spaced."""


@dataclass(frozen=True)
class Facts:
    """One node of LOD >= 0, at one instant of the history."""

    node: Node
    span: Span
    complete: bool
    """False for a token of the unfinished block at the end: no gist stands for it yet."""
    cited: list[Citation]
    """The first stretches of documents that it comes from."""
    num_cited: int
    tokens: np.ndarray
    """Its first ids, int32."""
    before: np.ndarray
    """For a token: the ids of its block before it; else none."""
    after: np.ndarray
    """For a token: the ids of its block behind it; else none."""
    parent: Node | None
    children: tuple[Node, Node] | None
    """The first and the last."""
    versions: list[tuple[int, bool, bool]]
    """Of each gist version: number, whether it is read, whether it covers the node (a token's: its block)."""
    gone: str
    """`forgotten` or `lost` where tokens of it were taken out, else empty."""
    access: NodeAccess | None
    """None for a token."""
    steps: int
    """Refocus steps recorded in the memory."""


@dataclass(frozen=True)
class Near:
    """A block whose address is near that of a node, as a dot product of unit vectors (cosine)."""

    node: Node
    similarity: float


@dataclass(frozen=True)
class NodeEdit:
    """One edit of a run that opened or closed a node."""

    arm: str
    question: int
    step: int
    edit: str
    score: float | None


def parse_node(text: str) -> Node | None:
    """`LOD:INDEX` as a node, None for anything else."""
    lod, colon, index = text.partition(":")
    if not colon or not all(part.isascii() and part.isdigit() and len(part) < 16 for part in (lod, index)):
        return None
    return Node(int(lod), int(index)) if int(lod) <= 12 else None


def parse_span(text: str) -> Span | None:
    """`START-STOP` as tokens with START < STOP, None for anything else."""
    start, hyphen, stop = text.partition("-")
    if not hyphen or not all(part.isascii() and part.isdigit() and len(part) < 16 for part in (start, stop)):
        return None
    return Span(int(start), int(stop)) if int(start) < int(stop) else None


def exists(node: Node, num_tokens: int, block_size: int) -> bool:
    """Whether the history has that node, complete."""
    return 0 <= node.index < num_tokens // block_size**node.lod


def facts(store: MemoryStore, node: Node) -> Facts:
    """All that the memory's records say of a node. Raises NodeMissingError."""
    memory, size = store.memory, store.block_size
    num_tokens = store.num_tokens
    if not exists(node, num_tokens, size):
        raise NodeMissingError(
            f"LOD {node.lod} of this memory has {num_tokens // size**node.lod:,} nodes, got index {node.index:,}; "
            "choose one that exists"
        )
    span = node_span(node, size)
    block = Node(1, node.index // size) if node.lod == 0 else node
    complete = exists(block, num_tokens, size)
    shown = Span(span.start, min(span.stop, span.start + MOST_TOKENS))
    first = block.index * size if node.lod == 0 else span.start
    around = memory.tokens(first, min(first + size, num_tokens)) if node.lod == 0 else None
    inside = node.index - first
    documents = memory.documents
    cited = [
        Citation(one, Span(max(span.start, one.start), min(span.stop, one.stop)))
        for one in islice(documents.overlapping(*span), MOST_DOCUMENTS)
    ]
    num_cited = len(cited)
    if num_cited == MOST_DOCUMENTS:
        num_cited = max(num_cited, documents.first_from(span.stop - 1) - documents.first_from(span.start) + 1)
    up = parent(node, size)
    return Facts(
        node=node,
        span=span,
        complete=complete,
        cited=cited,
        num_cited=num_cited,
        tokens=memory.tokens(*shown),
        before=around[:inside] if around is not None else np.empty(0, np.int32),
        after=around[inside + 1 :] if around is not None else np.empty(0, np.int32),
        parent=up if exists(up, num_tokens, size) else None,
        children=None if node.lod == 0 else (
            Node(node.lod - 1, node.index * size), Node(node.lod - 1, node.index * size + size - 1)
        ),
        versions=_versions(store, block, num_tokens),
        gone=_gone(store, span),
        access=memory.access.of(*node) if node.lod else None,
        steps=memory.access.steps,
    )  # fmt: skip


def near(store: MemoryStore, node: Node, owner: Hashable, most: int = MOST_NEAR) -> Job[list[Near]]:
    """The blocks outside a node whose addresses are nearest to its own, found in the background.

    A node above LOD 1 is asked by the mean address of its blocks. Fails with a sentence where there are no addresses.
    """
    state = store.state

    def find(job: Job[list[Near]]) -> list[Near]:
        job.tell("matching addresses")
        with store.lock:
            version = addressed_version(store)
            index = store.addresses(version)
            first, stop = blocks_of(node, store.block_size)
            stop = min(stop, index.num_blocks)
            if first >= stop:
                return []
            step = max(1, (stop - first) // _ADDRESSES_AT_ONCE)
            own = index.rows(np.arange(first, stop, step)).mean(axis=0)
            scale = float(np.linalg.norm(own)) or 1.0
            matches = index.matches((own / scale).astype(np.float32))
        matches[first:stop] = -np.inf
        count = min(most, len(matches) - (stop - first))
        if count <= 0:
            return []
        best = np.argpartition(-matches, count - 1)[:count]
        return [
            Near(Node(1, int(block)), float(matches[block])) for block in best[np.argsort(-matches[best])]
        ]

    return store.latest(owner, "near", (node, state), find)


def addressed_version(store: MemoryStore) -> int:
    """The version whose addresses are matched: the active one where it has some, else the first that does.

    Raises StaleGistError where none has.
    """
    catalogue = store.memory.catalogue
    for version in sorted(catalogue.versions, key=lambda one: one.number != catalogue.active):
        if version.address_width:
            return version.number
    raise StaleGistError(
        "what is near is found by address, and this memory holds tokens alone; make addresses with "
        "`megacontext memory refresh`"
    )


def blocks_of(node: Node, block_size: int) -> tuple[int, int]:
    """Blocks [first, stop) of a node; of a token, its block."""
    if node.lod == 0:
        return node.index // block_size, node.index // block_size + 1
    width = block_size ** (node.lod - 1)
    return node.index * width, (node.index + 1) * width


def text_of(vocabulary: Vocabulary | None, ids: Iterable[int]) -> str:
    """Text of ids; the ids themselves where there is no vocabulary to say it."""
    if vocabulary is None:
        return " ".join(str(int(one)) for one in ids)
    known = [one for one in ids if 0 <= one < vocabulary.vocab_size]
    return vocabulary.decode(known)


def edits_of(run: RunStore, history: str, node: Node, block_size: int, most: int = 40) -> list[NodeEdit]:
    """When arms of a run opened a node, or closed it again, by the telemetry of traced questions; in order."""
    if node.lod == 0:
        return []
    # Closing is noted at what was closed: a raw block, or the first of its children.
    below = (0, node.index) if node.lod == 1 else (node.lod - 1, node.index * block_size)
    lod, index, edit = pl.col("lod"), pl.col("index"), pl.col("edit")
    rows = (
        run.frame("entry")
        .filter(
            (pl.col("history") == history)
            & (
                ((lod == node.lod) & (index == node.index) & (edit == "expand"))
                | ((lod == below[0]) & (index == below[1]) & (edit == "collapse"))
            )
        )
        .sort("question", "arm", "step")
        .head(most)
    )
    return [
        NodeEdit(row["arm"], row["question"], row["step"], row["edit"], row["score"])
        for row in rows.iter_rows(named=True)
    ]


def _versions(store: MemoryStore, block: Node, num_tokens: int) -> list[tuple[int, bool, bool]]:
    catalogue, size = store.memory.catalogue, store.block_size
    first, stop = blocks_of(block, size)
    return [
        (one.number, one.number == catalogue.active,
         bool(one.covers(np.array([first]), np.array([stop]), num_tokens // size)[0]))
        for one in catalogue.versions
    ]  # fmt: skip


def _gone(store: MemoryStore, span: Span) -> str:
    catalogue = store.memory.catalogue
    for name, ranges in (("forgotten", catalogue.forgotten), ("lost", catalogue.lost)):
        if any(start < span.stop and stop > span.start for start, stop in ranges):
            return name
    return ""
