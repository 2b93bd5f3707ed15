"""Which records of a memory are as they were written, found by reading every one of them.

What verification reports and repair builds on: for each block whether its tokens are good, for each node of each gist
version whether its vector is, and the records that say what should be there at all.

Deliberately knows neither LMDB nor how a file is mended: records come in, tables of truth go out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from megacontext.errors import TreeFormatError
from megacontext.spans import Span
from megacontext.tree.documents import Document, read_document
from megacontext.tree.history import END_KEY, End, read_end
from megacontext.tree.identity import FORMAT_KEY, Catalogue, Version, read_catalogue
from megacontext.tree.records import (
    DOCUMENTS,
    META,
    TABLES,
    TOKENS,
    Record,
    addresses_table,
    gists_table,
    is_sealed,
    node_of_key,
)


class Damage(NamedTuple):
    """One thing that is not as it was written."""

    kind: str
    """pages, end, format, tokens, gists, addresses, documents, names or record."""
    span: Span | None
    """Tokens that are affected, where that is known."""
    what: str
    """In words."""


@dataclass
class Survey:
    """What was found. `None` or a missing entry: nothing good was."""

    end: End | None = None
    catalogue: Catalogue | None = None
    format_problem: str = ""
    documents: dict[int, Document] = field(default_factory=dict)
    num_blocks: int = 0
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """bool (num_blocks,)."""
    gists: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """By version: bool (nodes,) for LOD 1, 2, ..."""
    addresses: dict[int, np.ndarray] = field(default_factory=dict)
    """By version: bool (num_blocks,)."""
    damaged: list[tuple[str, bytes]] = field(default_factory=list)
    """Table and key of records whose checksum is wrong."""
    records: int = 0


def survey_meta(records: Iterable[tuple[str, Record]]) -> Survey:
    """End, format and documents, from the records of META and DOCUMENTS."""
    found = Survey()
    for table, (key, value) in records:
        if not is_sealed(table, key, value):
            continue
        if (table, key) == (META, END_KEY):
            found.end = read_end(value)
        elif (table, key) == (META, FORMAT_KEY):
            try:
                found.catalogue = read_catalogue(value, "this memory")
            except (TreeFormatError, KeyError, TypeError, json.JSONDecodeError) as problem:
                found.format_problem = str(problem)
        elif table == DOCUMENTS:
            document = read_document(key, value)
            found.documents[document.number] = document
    return found


def survey_nodes(found: Survey, records: Iterable[tuple[str, Record]]) -> None:
    """Fill in which blocks and nodes are good, from all records; needs end and catalogue."""
    assert found.end is not None and found.catalogue is not None
    size = found.catalogue.block_size
    found.num_blocks = found.end.num_tokens // size
    counts = [found.num_blocks // size**lod for lod in range(_depth(found.num_blocks, size))]
    parts: dict[str, list[np.ndarray]] = {TOKENS: [np.zeros(found.num_blocks, dtype=np.uint8)]}
    for version in found.catalogue.versions:
        parts[gists_table(version.number)] = [np.zeros(count, dtype=np.uint8) for count in counts]
        parts[addresses_table(version.number)] = [np.zeros(found.num_blocks, dtype=np.uint8)]
    for table, (key, value) in records:
        found.records += 1
        if not is_sealed(table, key, value):
            found.damaged.append((table, key))
        elif table in parts:
            node = node_of_key(key, size)
            if node is not None and node[0] <= len(parts[table]) and node[1] < len(parts[table][node[0] - 1]):
                parts[table][node[0] - 1][node[1]] += 1
    found.tokens = parts[TOKENS][0] >= 1
    for version in found.catalogue.versions:
        made_of = version.gist_layout.parts
        found.gists[version.number] = [good >= made_of for good in parts[gists_table(version.number)]]
        found.addresses[version.number] = (
            parts[addresses_table(version.number)][0] >= version.address_layout.parts
        )


def damages(found: Survey) -> Iterator[Damage]:
    """Everything that is not as the end and the format of the memory say."""
    if found.end is None:
        yield Damage("end", None, "the length of the history and its unfinished block cannot be read")
    if found.catalogue is None:
        yield Damage("format", None, found.format_problem or "what the memory was made with cannot be read")
    if found.end is None or found.catalogue is None:
        return
    size = found.catalogue.block_size
    for first, stop in runs(~found.tokens):
        yield Damage("tokens", Span(first * size, stop * size), f"{stop - first} blocks of tokens")
    for version in found.catalogue.versions:
        yield from _vector_damages(found, version, size)
    yield from _document_damages(found)
    for table, key in found.damaged:
        if not _is_node_table(table):
            yield Damage("record", None, f"the record under key {key.hex()} of {table}")


def bad_nodes(found: Survey, version: Version, lod: int, block_size: int) -> np.ndarray:
    """Nodes of one level that the version should cover and does not, bool (nodes,)."""
    good = found.gists[version.number][lod - 1]
    width = block_size ** (lod - 1)
    first = np.arange(len(good)) * width
    return version.covers(first, first + width, found.num_blocks) & ~good


def runs(chosen: np.ndarray) -> list[tuple[int, int]]:
    """Ranges [first, stop) of neighbours that are True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def _vector_damages(found: Survey, version: Version, size: int) -> Iterator[Damage]:
    for lod in range(1, len(found.gists[version.number]) + 1):
        width = size**lod
        for first, stop in runs(bad_nodes(found, version, lod, size)):
            what = f"{stop - first} gists of LOD{lod}, version {version.number}"
            yield Damage("gists", Span(first * width, stop * width), what)
    blocks = np.arange(found.num_blocks)
    expected = version.covers(blocks, blocks + 1, found.num_blocks)
    for first, stop in runs(expected & ~found.addresses[version.number]):
        what = f"{stop - first} addresses, version {version.number}"
        yield Damage("addresses", Span(first * size, stop * size), what)


def _document_damages(found: Survey) -> Iterator[Damage]:
    assert found.end is not None
    reached = 0
    for number in range(found.end.num_documents):
        document = found.documents.get(number)
        if document is None:
            yield Damage("documents", None, f"the record of document {number}")
        elif not reached <= document.start <= document.stop <= found.end.num_tokens:
            yield Damage("documents", None, f"document {number} lies at [{document.start}, {document.stop})")
        else:
            reached = document.stop


def _is_node_table(table: str) -> bool:
    return table == TOKENS or table not in TABLES


def _depth(num_blocks: int, block_size: int) -> int:
    depth = 0
    while num_blocks:
        depth, num_blocks = depth + 1, num_blocks // block_size
    return depth
