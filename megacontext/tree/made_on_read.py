"""Gists and addresses made at the moment they are read, for a version that does not cover the history yet.

A node that somebody has made before, and kept, is read; another is made from its children, which are made from
theirs, down to blocks of tokens. Each is the very vector that a sweep would have stored, so a version may be filled
in any order and by several routes.

Deliberately leaves it to the caller whether what was made is kept.
"""

from __future__ import annotations

import numpy as np

from megacontext.tree.encoder import Encoder, segment_blocks
from megacontext.tree.growth import encode, parents_of
from megacontext.tree.history import End, History
from megacontext.tree.identity import Version
from megacontext.tree.records import addresses_table, gists_table, pack_vectors
from megacontext.tree.store import Batch

_PARENTS_AT_ONCE = 64


def make_gists(
    history: History,
    encoder: Encoder,
    version: Version,
    lod: int,
    wanted: np.ndarray,
    end: End,
    batch: Batch,
) -> np.ndarray:
    """Gists of nodes of one level, float32 (n, E). What was made is put into `batch`."""
    table, size = gists_table(version.number), history.block_size
    nodes, back = np.unique(wanted, return_inverse=True)
    there = _present(history, table, version, lod, nodes, end)
    rows = np.empty((len(nodes), version.gist_width), dtype=np.float32)
    rows[there] = history.gists(version, lod, nodes[there])
    for at in _runs(nodes, ~there, segment_blocks(encoder) if lod == 1 else 1):
        first = int(nodes[at[0]])
        if lod == 1:
            made, _ = _make_blocks(history, encoder, version, nodes[at], end, batch)
        else:
            below = (nodes[at][:, None] * size + np.arange(size)).reshape(-1)
            children = make_gists(history, encoder, version, lod - 1, below, end, batch)
            made = parents_of(encoder, version, children.reshape(len(at), size, -1), lod)
            batch.put(table, pack_vectors(table, lod, first, made, version.gist_layout, size))
        rows[at] = made
    return rows[back]


def make_addresses(
    history: History, encoder: Encoder, version: Version, wanted: np.ndarray, end: End, batch: Batch
) -> np.ndarray:
    """Addresses of blocks in time order, float32 (n, A). What was made is put into `batch`."""
    there = _present(history, addresses_table(version.number), version, 1, wanted, end)
    rows = np.empty((len(wanted), version.address_width), dtype=np.float32)
    rows[there] = history.addresses(version, wanted[there])
    for at in _runs(wanted, ~there, segment_blocks(encoder)):
        rows[at] = _make_blocks(history, encoder, version, wanted[at], end, batch)[1]
    return rows


def _make_blocks(
    history: History, encoder: Encoder, version: Version, indices: np.ndarray, end: End, batch: Batch
) -> tuple[np.ndarray, np.ndarray]:
    """Gists and addresses, float16, of `indices`, blocks in order: neighbours, or all of one segment.

    What was made is put into `batch`: the whole segment, where one is read in any case.
    """
    size, together = history.block_size, segment_blocks(encoder)
    first, stop = int(indices[0]), int(indices[-1]) + 1
    if together > 1:
        first = first // together * together
        stop = min(first + together, end.num_tokens // size)
    made = encode(history, encoder, version, first, history.blocks(np.arange(first, stop)))
    for table, vectors, layout in (
        (gists_table(version.number), made[0], version.gist_layout),
        (addresses_table(version.number), made[1], version.address_layout),
    ):
        batch.put(table, pack_vectors(table, 1, first, vectors, layout, size))
    gists, addresses = (vectors[indices - first] for vectors in made)
    return gists, addresses


def _present(
    history: History, table: str, version: Version, lod: int, nodes: np.ndarray, end: End
) -> np.ndarray:
    """Which nodes are covered, or were made and kept before."""
    width = history.block_size ** (lod - 1)
    covered = version.covers(nodes * width, (nodes + 1) * width, end.num_tokens // history.block_size)
    return covered | history.has(table, lod, nodes)


def _runs(nodes: np.ndarray, chosen: np.ndarray, together: int) -> list[np.ndarray]:
    """Positions of the chosen nodes, in runs of neighbours of at most `_PARENTS_AT_ONCE`.

    Where `together` nodes are made at once, a run holds all that are chosen of one such group, and no other.
    """
    positions = np.flatnonzero(chosen)
    if not len(positions):
        return []
    if together > 1:
        return np.split(positions, np.flatnonzero(np.diff(nodes[positions] // together)) + 1)
    breaks = np.flatnonzero(np.diff(nodes[positions]) != 1) + 1
    return [
        run[start : start + _PARENTS_AT_ONCE]
        for run in np.split(positions, breaks)
        for start in range(0, len(run), _PARENTS_AT_ONCE)
    ]
