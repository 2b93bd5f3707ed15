"""How sure one may be of a share or of a mean, and how two orders agree."""

from __future__ import annotations

import math

import numpy as np

from megacontext.errors import ShapeError

Z_95 = 1.959964


def wilson(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a binomial share (Wilson 1927); (0, 1) when nothing was tried."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation of two rows (N,), ties at their mean rank; None where a row is constant."""
    ranks = [_mean_ranks(row) for row in (first, second)]
    spreads = [row - row.mean() for row in ranks]
    size = math.sqrt(float((spreads[0] ** 2).sum() * (spreads[1] ** 2).sum()))
    return float((spreads[0] * spreads[1]).sum()) / size if size else None


def bootstrap_mean(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` (N,), by drawing them again (Efron 1979).

    The same values and seed give the same interval. Raises ShapeError for no values.
    """
    if not len(values):
        raise ShapeError("an interval of a mean needs at least one value, got none; measure something")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _mean_ranks(row: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
