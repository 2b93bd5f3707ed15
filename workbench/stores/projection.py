"""Where gists, or addresses, lie towards one another: a sample of one level, laid out on two axes.

Principal components by a singular value decomposition: the two directions in which the sample differs most, and how
much of its variance they explain. With the optional package umap-learn also UMAP, which keeps neighbours together and
whose axes mean nothing. What is sampled is bounded in numbers, not in nodes: a cached gist of a frozen decoder has tens
of thousands of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import polars as pl

from megacontext.errors import StaleGistError
from megacontext.tree.identity import Version
from megacontext.tree.records import gists_table
from workbench.stores.background import Job
from workbench.stores.memory import MemoryStore
from workbench.stores.nodes import text_of

MOST_NODES = 2_000
MOST_NUMBERS = 8_000_000
"""In a sample, all vectors together."""
_CANDIDATES = 4_096
"""Nodes that are asked for whether somebody made their gists, where the version does not cover them."""
_TEXT_TOKENS = 16

GISTS, ADDRESSES = "gists", "addresses"


@dataclass(frozen=True)
class Projection:
    """A sample on two axes."""

    points: pl.DataFrame
    """Columns x, y, lod, index, start, document (number, -1 for none), name, text."""
    of: str
    """`gists` or `addresses`."""
    version: int
    lod: int
    num_nodes: int
    """Nodes of the level, of which the points are a sample."""
    width: int
    """Numbers of a vector."""
    explained: tuple[float, float] | None
    """Share of the sample's variance along each axis; None where axes mean nothing."""


def has_umap() -> bool:
    """Whether the optional package umap-learn is installed."""
    return importlib.util.find_spec("umap") is not None


def sources(store: MemoryStore) -> list[tuple[str, Version]]:
    """What may be laid out: gists and addresses of each version that has some, the active version first."""
    catalogue = store.memory.catalogue
    versions = sorted(catalogue.versions, key=lambda one: one.number != catalogue.active)
    found = [(GISTS, one) for one in versions if one.gist_width]
    return found + [(ADDRESSES, one) for one in versions if one.address_width]


def levels_of(store: MemoryStore, of: str) -> list[int]:
    """Levels with enough nodes to be laid out; addresses are of blocks alone."""
    counts = [store.memory.count(lod) for lod in range(1, 8)]
    enough = [lod for lod, count in enumerate(counts, start=1) if count >= 3]
    return enough[:1] if of == ADDRESSES else enough


def project(
    store: MemoryStore, of: str, version: Version, lod: int, owner: Hashable, by: str = "pca"
) -> Job[Projection]:
    """A sample of one level of one version, laid out in the background.

    Fails with a sentence where fewer than three nodes of the level have vectors.
    """
    state = store.state

    def lay_out(job: Job[Projection]) -> Projection:
        job.tell("reading vectors")
        vocabulary = store.vocabulary()
        with store.lock:
            indices, vectors = _sample(store, of, version, lod)
        if len(indices) < 3:
            raise StaleGistError(
                f"laying out takes three vectors or more, version {version.number} has {len(indices)} {of} of level "
                f"{lod}; make them with `megacontext memory refresh`, or choose another level"
            )
        job.tell("projecting")
        if by == "umap":
            places, explained = _umap(vectors), None
        else:
            places, explained = principal_components(vectors)
        job.tell("reading texts")
        vocabulary.wait(30)
        known = None if vocabulary.failed or not vocabulary.done else vocabulary.result
        width = store.block_size**lod
        starts = indices * width
        texts = [
            text_of(known, store.memory.tokens(int(at), int(at) + min(width, _TEXT_TOKENS))) for at in starts
        ]
        numbers, names = _documents(store, starts + width // 2)
        points = pl.DataFrame(
            {
                "x": places[:, 0], "y": places[:, 1], "lod": np.full(len(indices), lod), "index": indices,
                "start": starts, "document": numbers, "name": names, "text": texts,
            }
        )  # fmt: skip
        count = store.memory.count(lod)
        return Projection(points, of, version.number, lod, count, vectors.shape[1], explained)

    return store.latest(owner, "project", (of, version.number, lod, by, state), lay_out)


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The first two principal components (n, 2) of vectors (n, E), and the share of the variance along each."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    kept = min(2, len(sizes))
    places[:, :kept] = left[:, :kept] * sizes[:kept]
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    return places, (float(shares[0]), float(shares[1]) if kept > 1 else 0.0)


def _sample(store: MemoryStore, of: str, version: Version, lod: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n,) of nodes evenly spaced among those that have vectors, and the vectors (n, E)."""
    memory, count = store.reading(version.number), store.memory.count(lod)
    width = version.gist_width if of == GISTS else version.address_width
    most = max(3, min(MOST_NODES, MOST_NUMBERS // max(width, 1)))
    there = np.flatnonzero(memory.covers(lod, np.arange(count)))
    if not len(there) and of == GISTS:
        # A version that is made where it is read keeps what was made, and says so only by the records.
        candidates = _spaced(np.arange(count), _CANDIDATES)
        there = candidates[memory.history.has(gists_table(version.number), lod, candidates)]
        chosen = _spaced(there, most)
        return chosen, memory.history.gists(version, lod, chosen)
    chosen = _spaced(there, most)
    if of == GISTS:
        return chosen, memory.gists(lod, chosen)
    return chosen, memory.history.addresses(version, chosen)


def _spaced(all_of: np.ndarray, most: int) -> np.ndarray:
    """At most so many, evenly spaced."""
    if len(all_of) <= most:
        return all_of
    return all_of[np.linspace(0, len(all_of) - 1, most).astype(np.int64)]


def _documents(store: MemoryStore, tokens: np.ndarray) -> tuple[list[int], list[str]]:
    """Number and name of the document at each token; -1 and nothing for none."""
    documents = list(store.memory.documents)
    starts = np.array([one.start for one in documents], dtype=np.int64)
    numbers, names = [], []
    for token, at in zip(tokens, np.searchsorted(starts, tokens, side="right") - 1, strict=True):
        inside = at >= 0 and token < documents[at].stop
        numbers.append(int(at) if inside else -1)
        names.append(documents[at].name if inside else "")
    return numbers, names


def _umap(vectors: np.ndarray) -> np.ndarray:
    from umap import UMAP

    return np.asarray(UMAP(n_components=2, random_state=0).fit_transform(vectors), dtype=np.float64)
