"""A damaged memory made whole again from every record that is left of it.

The damaged file is never changed: all records that match their checksums are gathered from its pages, wherever those
lie, and written into a new file that takes its place; the old one is kept aside under the name tree-N.mdb.damaged.
Tokens that were not found are filled and their spans noted as lost; vectors over them, and vectors that were not
found, become holes for the next sweep.

A page that nothing points to may hold what a writer has changed or forgotten since. So loose records only stand in
where no better one is left, and never for tokens that were forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from megacontext.errors import CorruptRecordError
from megacontext.spans import Span
from megacontext.tree.data_file import newest_data_file, next_data_file, put_in_place, remove_data_file
from megacontext.tree.derived import remove_derived
from megacontext.tree.documents import Document, name_record, read_document
from megacontext.tree.history import END_KEY, End, read_end
from megacontext.tree.identity import FORMAT_KEY, Catalogue, Identity, TokenRange, read_catalogue, union
from megacontext.tree.records import (
    ACCESS,
    DOCUMENTS,
    META,
    NAMES,
    TABLES,
    TOKENS,
    Record,
    addresses_table,
    gists_table,
    is_sealed,
    node_keys,
    node_of_key,
    pack_tokens,
)
from megacontext.tree.salvage import salvage
from megacontext.tree.store import Batch
from megacontext.tree.survey import Survey, bad_nodes, runs, survey_nodes
from megacontext.tree.writer_lock import WriterLock

_MOST_VERSIONS = 64
_RECORDS_AT_ONCE = 1 << 15
DAMAGED_SUFFIX = ".damaged"


@dataclass(frozen=True)
class Repair:
    """What became of a damaged memory."""

    num_tokens: int
    lost: tuple[Span, ...]
    """Tokens that could not be found; filler stands in their place."""
    lost_documents: tuple[int, ...]
    """Documents whose record could not be found: their name is gone, their tokens are not."""
    blocks_to_sweep: dict[int, int]
    """By gist version: blocks whose vectors have to be made again."""
    kept_aside: Path
    """The damaged file."""


Found = dict[str, dict[bytes, tuple[bool, bytes]]]
"""By table and key: whether the record was in its place, and its value."""


def repair(path: Path, filler: int, identity: Identity | None = None) -> Repair:
    """Make the memory in `path` whole. `identity` is needed only if what it was made with cannot be read.

    Raises TreeFormatError if another process writes to it, CorruptRecordError if nothing can be built from what is
    left; then the memory is as it was.
    """
    file = newest_data_file(path)
    lock = WriterLock(path)
    try:
        found, ends, catalogues = _gather(file)
        catalogue = _best_catalogue(catalogues, identity, file)
        documents = _documents(found)
        end = _best_end(ends, found, documents, catalogue)
        blocks, lost = _tokens(found, end, catalogue, filler)
        end = _with_tail(end, catalogue.block_size, filler)
        usable = _usable(found, catalogue)
        survey = Survey(end=end, catalogue=catalogue)
        survey_nodes(survey, ((table, record) for table in usable for record in usable[table]))
        catalogue = replace(_with_holes(catalogue, survey, lost), lost=union([*catalogue.lost, *lost]))
        every = _every_document(documents, end, catalogue)
        remove_derived(path)
        put_in_place(path, next_data_file(file).name, _batches(end, catalogue, blocks, every, usable))
        aside = file.with_name(file.name + DAMAGED_SUFFIX)
        file.rename(aside)
        remove_data_file(file)
    finally:
        lock.release()
    return Repair(
        num_tokens=end.num_tokens,
        lost=tuple(Span(*span) for span in lost),
        lost_documents=tuple(document.number for document in every if document.state == "lost"),
        blocks_to_sweep={
            version.number: sum(stop - first for first, stop in version.missing(survey.num_blocks))
            for version in catalogue.versions
        },
        kept_aside=aside,
    )


def _gather(file: Path) -> tuple[Found, list[tuple[bool, End]], list[tuple[bool, Catalogue]]]:
    """Every record of the file that matches its checksum, those in their place before loose ones."""
    found: Found = {}
    ends: list[tuple[bool, End]] = []
    catalogues: list[tuple[bool, Catalogue]] = []
    for page in salvage(file):
        for key, value in page.records:
            table = _table_of(page.table, key, value)
            if table is None:
                continue
            live = table == page.table
            if (table, key) == (META, END_KEY):
                ends.append((live, read_end(value)))
            elif (table, key) == (META, FORMAT_KEY):
                catalogues.append((live, read_catalogue(value, str(file))))
            else:
                held = found.setdefault(table, {})
                if live or key not in held or (table == DOCUMENTS and not held[key][0]):
                    held[key] = (live, _later(table, key, held.get(key), value) if not live else value)
    return found, ends, catalogues


def _later(table: str, key: bytes, held: tuple[bool, bytes] | None, value: bytes) -> bytes:
    """Of two loose records of one document the one that reaches further."""
    if table != DOCUMENTS or held is None:
        return value
    one, other = read_document(key, held[1]), read_document(key, value)
    return (
        value if (other.state == "forgotten", other.stop) > (one.state == "forgotten", one.stop) else held[1]
    )


def _table_of(table: str | None, key: bytes, value: bytes) -> str | None:
    """The table that a record was sealed for, None if it is no whole record."""
    if table is not None and is_sealed(table, key, value):
        return table
    numbered = (
        name(number) for number in range(1, _MOST_VERSIONS) for name in (gists_table, addresses_table)
    )
    for candidate in (*TABLES, *numbered):
        if is_sealed(candidate, key, value):
            return candidate
    return None


def _best_catalogue(found: list[tuple[bool, Catalogue]], identity: Identity | None, file: Path) -> Catalogue:
    """The one in its place; else the one that knows most. Raises CorruptRecordError."""
    if found:
        return max(found, key=_worth)[1]
    if identity is None:
        raise CorruptRecordError(
            f"repairing needs to know what the memory was made with, {file} does not say any more; give the model "
            "that it was made with"
        )
    return Catalogue(tokenizer=identity.tokenizer, block_size=identity.block_size)


def _worth(found: tuple[bool, Catalogue]) -> tuple[bool, int, int]:
    """What is in its place first; of loose ones that which knows of the most forgetting."""
    live, catalogue = found
    return live, sum(stop - start for start, stop in catalogue.forgotten), len(catalogue.versions)


def _best_end(
    ends: list[tuple[bool, End]], found: Found, documents: dict[int, Document], catalogue: Catalogue
) -> End:
    """The end in its place; else as far as any record reaches."""
    in_place = [end for live, end in ends if live]
    if in_place:
        return max(in_place, key=lambda end: (end.revision, end.num_tokens))
    nodes = (node_of_key(key, catalogue.block_size) for key in found.get(TOKENS, {}))
    blocks = max((node[1] + 1 for node in nodes if node is not None and node[0] == 1), default=0)
    reached = max(
        [
            blocks * catalogue.block_size,
            *(document.stop for document in documents.values()),
            *(end.num_tokens for _, end in ends),
        ]
    )
    newest = max((end for _, end in ends), key=lambda end: end.num_tokens, default=None)
    count = max([*documents, -1]) + 1
    revision = max((end.revision for _, end in ends), default=0)
    if newest is not None and newest.num_tokens == reached:
        return newest._replace(num_documents=max(count, newest.num_documents), revision=revision)
    return End(reached, count, revision, np.empty(0, dtype=np.int32))


def _documents(found: Found) -> dict[int, Document]:
    documents = (read_document(key, value) for key, (_, value) in found.get(DOCUMENTS, {}).items())
    return {document.number: document for document in documents}


def _tokens(
    found: Found, end: End, catalogue: Catalogue, filler: int
) -> tuple[list[Record], list[TokenRange]]:
    """Records of all blocks, filler where they are not there, and the spans where that is so."""
    size = catalogue.block_size
    num_blocks = end.num_tokens // size
    keys = node_keys(1, np.arange(num_blocks), size)
    held = found.get(TOKENS, {})
    loose_is_stale = _knew_forgotten(
        np.arange(num_blocks) * size, np.arange(1, num_blocks + 1) * size, catalogue
    )
    good = np.array(
        [
            key in held and (held[key][0] or not stale)
            for key, stale in zip(keys, loose_is_stale, strict=True)
        ],
        dtype=bool,
    )
    missing = np.flatnonzero(~good)
    filled = pack_tokens([keys[at] for at in missing], np.full((len(missing), size), filler, dtype=np.int32))
    records = [(key, held[key][1]) for key, is_good in zip(keys, good, strict=True) if is_good] + filled
    lost = [(first * size, stop * size) for first, stop in runs(~good)]
    if len(end.tail) < end.num_tokens % size:
        lost.append((num_blocks * size, end.num_tokens))
    return sorted(records), list(union(lost))


def _with_tail(end: End, block_size: int, filler: int) -> End:
    """The end with filler for a tail that was lost, as a newer revision than any reader has seen."""
    lacking = end.num_tokens % block_size - len(end.tail)
    tail = np.concatenate([end.tail, np.full(lacking, filler, dtype=np.int32)]) if lacking > 0 else end.tail
    return end._replace(tail=tail, revision=end.revision + 1)


def _usable(found: Found, catalogue: Catalogue) -> dict[str, list[Record]]:
    """Vectors and access counts that may be taken over, in key order."""
    usable = {ACCESS: sorted((key, value) for key, (_, value) in found.get(ACCESS, {}).items())}
    for version in catalogue.versions:
        for table, reach in (
            (gists_table(version.number), 0),
            (addresses_table(version.number), version.left_tokens),
        ):
            held = sorted(found.get(table, {}).items())
            first, stop = _block_spans([key for key, _ in held], catalogue.block_size)
            stale = _knew_forgotten(
                first * catalogue.block_size - reach, stop * catalogue.block_size, catalogue
            )
            usable[table] = [
                (key, value)
                for (key, (live, value)), is_stale in zip(held, stale, strict=True)
                if live or not is_stale
            ]
    return usable


def _with_holes(catalogue: Catalogue, survey: Survey, lost: list[TokenRange]) -> Catalogue:
    """The catalogue with a hole wherever a vector is missing or its tokens are."""
    size, num_blocks = catalogue.block_size, survey.num_blocks
    for version in catalogue.versions:
        changed = version
        if version.frontier is not None and version.frontier >= num_blocks:
            changed = replace(version, frontier=None)
        for lod in range(1, len(survey.gists[version.number]) + 1):
            width = size ** (lod - 1)
            for first, stop in runs(bad_nodes(survey, version, lod, size)):
                changed = changed.without(first * width, stop * width)
        blocks = np.arange(num_blocks)
        expected = version.covers(blocks, blocks + 1, num_blocks)
        for first, stop in runs(expected & ~survey.addresses[version.number]):
            changed = changed.without(first, stop)
        for start, stop in lost:
            reach = -(-(stop + version.left_tokens) // size)
            changed = changed.without(start // size, min(reach, num_blocks))
        catalogue = catalogue.with_version(changed)
    return catalogue


def _every_document(documents: dict[int, Document], end: End, catalogue: Catalogue) -> list[Document]:
    """All documents of the history; one without a record takes the room between its neighbours, unnamed."""
    every: list[Document] = []
    for number in range(end.num_documents):
        reached = every[-1].stop if every else 0
        later = (documents[n].start for n in range(number + 1, end.num_documents) if n in documents)
        document = documents.get(number) or Document(
            number=number, name="", start=reached, stop=next(later, end.num_tokens), state="lost"
        )
        document = replace(document, stop=min(document.stop, end.num_tokens))
        taken_out = any(a <= document.start < document.stop <= b for a, b in catalogue.forgotten)
        every.append(document.forgotten() if taken_out else document)
    return every


def _batches(
    end: End,
    catalogue: Catalogue,
    blocks: list[Record],
    documents: list[Document],
    usable: dict[str, list[Record]],
) -> Iterator[Batch]:
    """All records of the new file."""
    yield Batch({META: [end.record(), catalogue.record()], DOCUMENTS: [one.record() for one in documents]})
    names = dict(name_record(document) for document in documents if document.name)
    yield Batch({NAMES: list(names.items())})
    yield from _in_batches(TOKENS, blocks)
    yield from _in_batches(ACCESS, usable[ACCESS])
    num_blocks = end.num_tokens // catalogue.block_size
    for version in catalogue.versions:
        for table in (gists_table(version.number), addresses_table(version.number)):
            first, stop = _block_spans([key for key, _ in usable[table]], catalogue.block_size)
            covered = version.covers(first, stop, num_blocks)
            yield from _in_batches(
                table, [record for record, keep in zip(usable[table], covered, strict=True) if keep]
            )


def _in_batches(table: str, records: list[Record]) -> Iterator[Batch]:
    for start in range(0, len(records), _RECORDS_AT_ONCE):
        yield Batch({table: records[start : start + _RECORDS_AT_ONCE]})


def _block_spans(keys: list[bytes], block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """First block and one past the last of the nodes that keys name, int64 (n,) each."""
    numbers = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64)
    stop = (numbers >> np.uint64(16)).astype(np.int64)
    lod = (numbers >> np.uint64(8) & np.uint64(255)).astype(np.int64)
    return stop - block_size ** (lod - 1), stop


def _knew_forgotten(start: np.ndarray, stop: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """Which of the token ranges [start, stop) hold tokens that were forgotten, bool (n,)."""
    knew = np.zeros(len(start), dtype=bool)
    for first, last in catalogue.forgotten:
        knew |= (start < last) & (stop > first)
    return knew
