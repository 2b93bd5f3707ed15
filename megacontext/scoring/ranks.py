"""Scores from ranks alone, for numbers without a scale, and ranks of two kinds fused into one.

The fusion is reciprocal rank fusion (Cormack, Clarke and Buettcher 2009) with their k = 60.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

RRF_K = 60
RRF_DEPTH = 1000
"""Ranks that count in a fusion; as in retrieval, what stands behind was not found."""


def best_first(values: np.ndarray, most: int) -> np.ndarray:
    """Indices of the `most` highest values (n,), the best first, ties to the later one. Linear in n for few."""
    if most < len(values):
        least = np.partition(values, len(values) - most)[len(values) - most]
        above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
        chosen = np.concatenate((above, equal[len(equal) - (most - len(above)) :]))
    else:
        chosen = np.arange(len(values))
    return chosen[np.lexsort((-chosen, -values[chosen]))]


def rank_scores(values: np.ndarray, room: int) -> np.ndarray:
    """Scores (n,) by rank alone: 1 for the highest value, 0 after `room` of them, -1 from 2 * room on.

    Ties go to the later block. For scorers whose numbers have no scale: they want the budget filled with their best.
    """
    room = max(1, room)
    scores = np.full(len(values), -1.0, dtype=np.float32)
    best = best_first(values, 2 * room)
    scores[best] = 1.0 - np.arange(len(best)) / room
    return scores


def fused_ranks(rows: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Sum over rows (size,) of 1 / (60 + rank), rank 1 being the best of a row; float64 (size,).

    A value of -inf has no rank, and neither has one beyond the first RRF_DEPTH.
    """
    fused = np.zeros(size)
    for values in rows:
        best = best_first(values, min(RRF_DEPTH, size))
        best = best[values[best] > -np.inf]
        fused[best] += 1.0 / (RRF_K + 1 + np.arange(len(best)))
    return fused
