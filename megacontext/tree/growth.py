"""Vectors of blocks, and of every ancestor that becomes whole with them.

One routine for all who need gists: appending, sweeping a new version over old tokens, filling holes that forgetting
or damage left, and making a node at the moment it is read. Vectors are rounded to float16 when they are made and
parents are computed from rounded children, so every route to the same tokens gives the same tree.
"""

from __future__ import annotations

import numpy as np

from megacontext.errors import ShapeError
from megacontext.tree.encoder import Encoder, SegmentEncoder, left_windows
from megacontext.tree.history import History
from megacontext.tree.identity import Version
from megacontext.tree.records import addresses_table, gists_table, pack_vectors, to_half
from megacontext.tree.store import Batch


def grow(
    history: History,
    encoder: Encoder,
    version: Version,
    first: int,
    blocks: np.ndarray,
    num_blocks: int,
    batch: Batch,
) -> None:
    """Put into `batch` the vectors of `blocks` (n, K) from index `first` on, and of the ancestors they complete.

    `version` and `num_blocks` are as they will be when the batch is done. Children that are not among `blocks` are
    read from the history.
    """
    size, gists = history.block_size, gists_table(version.number)
    level, address = encode(history, encoder, version, first, blocks)
    layout = version.address_layout
    addresses = addresses_table(version.number)
    batch.put(addresses, pack_vectors(addresses, 1, first, address, layout, size))
    batch.put(gists, pack_vectors(gists, 1, first, level, version.gist_layout, size))
    lod = 1
    while len(level):
        parents = _completed(first, len(level), lod + 1, size, version, num_blocks)
        if not len(parents):
            return
        family = _family(history, version, lod, parents, first, level)
        level = parents_of(encoder, version, family, lod + 1)
        lod, first = lod + 1, int(parents[0])
        batch.put(gists, pack_vectors(gists, lod, first, level, version.gist_layout, size))


def encode(
    history: History, encoder: Encoder, version: Version, first: int, blocks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gists (n, E) and addresses (n, A), float16, of neighbouring blocks (n, K)."""
    if isinstance(encoder, SegmentEncoder):
        gists, addresses = _by_segments(history, encoder, first, blocks)
    else:
        before = history.before(first * history.block_size, version.left_tokens)
        left = left_windows(before, blocks, version.left_tokens)
        gists, addresses = encoder.encode_blocks(blocks, left)  # (n, K) -> (n, E), (n, A)
    return (
        to_half(_shaped(gists, (len(blocks), version.gist_width), "encode_blocks' gists"), "gists"),
        to_half(
            _shaped(addresses, (len(blocks), version.address_width), "encode_blocks' addresses"), "addresses"
        ),
    )


def _by_segments(
    history: History, encoder: SegmentEncoder, first: int, blocks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gists (n, E) and addresses (n, A) of `blocks` from index `first` on; what leads up to them is read again."""
    size = encoder.segment_blocks
    begin = first // size * size
    known = np.concatenate([history.blocks(np.arange(begin, first)), blocks])
    made = [encoder.encode_segment(known[at : at + size]) for at in range(0, len(known), size)]
    if not made:
        return np.zeros((0, encoder.gist_width)), np.zeros((0, encoder.address_width))
    gists, addresses = (np.concatenate(rows)[first - begin :] for rows in zip(*made, strict=True))
    return gists, addresses


def parents_of(encoder: Encoder, version: Version, family: np.ndarray, lod: int) -> np.ndarray:
    """Gists (n, E), float16, of level `lod` from rounded children (n, K, E)."""
    made = encoder.encode_parents(family, lod)  # (n, K, E) -> (n, E)
    return to_half(_shaped(made, (len(family), version.gist_width), "encode_parents' gists"), "gists")


def _completed(
    first: int, count: int, lod: int, block_size: int, version: Version, num_blocks: int
) -> np.ndarray:
    """Indices of the nodes of `lod` with a child among nodes [first, first + count) and no block missing."""
    candidates = np.arange(first // block_size, (first + count - 1) // block_size + 1)
    width = block_size ** (lod - 1)
    return candidates[version.covers(candidates * width, (candidates + 1) * width, num_blocks)]


def _family(
    history: History, version: Version, lod: int, parents: np.ndarray, first: int, level: np.ndarray
) -> np.ndarray:
    """The children (n, K, E) of neighbouring `parents`: those in `level`, made just now, and stored siblings."""
    size = history.block_size
    assert (np.diff(parents) == 1).all(), parents
    start, stop = int(parents[0]) * size, (int(parents[-1]) + 1) * size
    older = history.gists(version, lod, np.arange(start, max(start, first)))
    newer = history.gists(version, lod, np.arange(min(stop, first + len(level)), stop))
    made = level[max(0, start - first) : stop - first].astype(np.float32)
    return np.concatenate([older, made, newer]).reshape(len(parents), size, -1)


def _shaped(vectors: np.ndarray, shape: tuple[int, int], what: str) -> np.ndarray:
    if np.shape(vectors) != shape:
        raise ShapeError(
            f"{what} must have shape {shape}, got {np.shape(vectors)}; check the encoder's widths"
        )
    return np.asarray(vectors)
