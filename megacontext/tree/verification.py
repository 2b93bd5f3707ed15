"""Reading a whole memory to say what of it is damaged, and where.

Three looks, each of which sees what the others cannot: at the pages (by a walker that never hands the file to LMDB),
at every record's checksum and at what is missing, and, given the encoder, at whether each vector is the one that its
tokens give. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megacontext.errors import MegaContextError, TreeFormatError
from megacontext.spans import Span
from megacontext.tree.appending import chunk_blocks
from megacontext.tree.data_file import newest_data_file
from megacontext.tree.encoder import Encoder
from megacontext.tree.growth import encode, parents_of
from megacontext.tree.identity import Identity
from megacontext.tree.lmdb_store import LmdbStore
from megacontext.tree.memory import Memory
from megacontext.tree.pages import check_metas, check_pages
from megacontext.tree.records import DOCUMENTS, META, Record
from megacontext.tree.salvage import salvage
from megacontext.tree.store import scan_all
from megacontext.tree.survey import Damage, Survey, damages, runs, survey_meta, survey_nodes
from megacontext.tree.writer_lock import writer_of

_MOST_FAULTS = 1000
_ROUNDING = 0.01
"""Share of a vector's length that another machine's arithmetic may change; damage changes all of it."""

Told = Callable[[int], None]
"""Told how many records have been read."""


@dataclass(frozen=True)
class Verification:
    """What was read, and what is wrong with it."""

    damages: tuple[Damage, ...]
    num_tokens: int
    records: int
    recomputed: int
    """Vectors that were computed again and compared; 0 if no encoder was given."""

    @property
    def ok(self) -> bool:
        return not self.damages


def verify(
    path: Path, identity: Identity | None = None, encoder: Encoder | None = None, told: Told | None = None
) -> Verification:
    """Everything that is wrong with the memory in `path`. Raises TreeFormatError if there is none at all."""
    file = newest_data_file(path)
    faults = _page_faults(path, file)
    if faults:
        found = _survey(lambda: _salvaged(file), told)
    else:
        store = LmdbStore.open(path, writable=False)
        try:
            found = _survey(lambda: _stored(store), told)
        finally:
            store.close()
    wrong = [*faults, *damages(found)]
    recomputed = 0
    if encoder is not None and not wrong:
        with Memory.open(path, identity, encoder) as memory:
            differing, recomputed = recompute(memory, encoder)
            wrong += differing
    tokens = found.end.num_tokens if found.end else 0
    return Verification(tuple(wrong), tokens, found.records, recomputed)


def _page_faults(path: Path, file: Path) -> list[Damage]:
    """Pages that LMDB could stumble over, or why it will not open the file."""
    try:
        if writer_of(path) is None:
            check_metas(file)
            faults = check_pages(file, max_faults=_MOST_FAULTS).faults
            if faults:
                return [
                    Damage("pages", None, f"page {one.page} of {one.table or 'the file'}: {one.what}")
                    for one in faults
                ]
        LmdbStore.open(path, writable=False, check="always").close()
    except (TreeFormatError, FileNotFoundError) as problem:
        return [Damage("pages", None, str(problem))]
    return []


def _survey(records: Callable[[], Iterator[tuple[str, Record]]], told: Told | None) -> Survey:
    found = survey_meta(record for record in records() if record[0] in (META, DOCUMENTS))
    if found.end is not None and found.catalogue is not None:
        survey_nodes(found, _counted(records(), told))
    return found


def _stored(store: LmdbStore) -> Iterator[tuple[str, Record]]:
    return ((table, record) for table in store.tables() for record in scan_all(store, table))


def _salvaged(file: Path) -> Iterator[tuple[str, Record]]:
    """Records that LMDB would find if it could be trusted with the file."""
    try:
        for page in salvage(file):
            if page.table is not None:
                yield from ((page.table, record) for record in page.records)
    except MegaContextError:
        return  # not even a page of it is there: nothing is found, and that is what is reported


def _counted(records: Iterator[tuple[str, Record]], told: Told | None) -> Iterator[tuple[str, Record]]:
    for number, record in enumerate(records, 1):
        yield record
        if told is not None and number % 4096 == 0:
            told(number)


def recompute(memory: Memory, encoder: Encoder) -> tuple[list[Damage], int]:
    """Vectors of the version that is read that differ from what their tokens give, and how many were compared."""
    history, version, size = memory.history, memory.version, memory.block_size
    wrong: list[Damage] = []
    compared = 0
    for lod in range(1, 64):
        count = memory.count(lod)
        if not count:
            break
        differs = np.zeros(count, dtype=bool)
        chunk = chunk_blocks(version.gist_width, size)
        for first in range(0, count, chunk):
            nodes = np.arange(first, min(first + chunk, count))
            nodes = nodes[memory.covers(lod, nodes)]
            for start, stop in runs(np.isin(np.arange(first, first + chunk), nodes)):
                run = np.arange(first + start, first + stop)
                compared += len(run)
                if lod == 1:
                    made, addresses = encode(history, encoder, version, int(run[0]), memory.blocks(run))
                    differs[run] |= _differ(addresses, history.addresses(version, run))
                else:
                    below = (run[:, None] * size + np.arange(size)).reshape(-1)
                    family = history.gists(version, lod - 1, below).reshape(len(run), size, -1)
                    made = parents_of(encoder, version, family, lod)
                differs[run] |= _differ(made, history.gists(version, lod, run))
        wrong += [
            Damage(
                "gists",
                Span(first * size**lod, stop * size**lod),
                f"{stop - first} vectors of LOD{lod} are not what their tokens give",
            )
            for first, stop in runs(differs)
        ]
    return wrong, compared


def _differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which rows are further apart than rounding explains, bool (n,)."""
    distance = np.linalg.norm(one.astype(np.float32) - other, axis=1)
    return distance > _ROUNDING * np.maximum(np.linalg.norm(other, axis=1), 1e-3)
