"""Means of samples that come in clusters, with errors over the clusters: windows of one segment share their text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from megacontext.errors import ShapeError
from megacontext.evals.statistics import Z_95


@dataclass(frozen=True)
class Mean:
    """A mean over clusters' means, with its standard error."""

    mean: float
    se: float
    clusters: int

    @property
    def z(self) -> float:
        """How many standard errors it is from nothing; 0 where there is none to count with."""
        return self.mean / self.se if self.se else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        return self.mean - Z_95 * self.se, self.mean + Z_95 * self.se

    def numbers(self) -> dict[str, float | None]:
        """As results.json has it; null where there is no error to count with."""
        known = self.clusters > 1
        low, high = self.interval
        return {
            "mean": self.mean,
            "se": self.se if known else None,
            "z": self.z,
            "low": low if known else None,
            "high": high if known else None,
        }


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> Mean:
    """The mean of the clusters' means of `values` (N,); `clusters` (N,) names the cluster of each.

    One cluster has no error that could be known: then it is infinite. Raises ShapeError for no values.
    """
    if not len(values) or len(values) != len(clusters):
        raise ShapeError(
            f"a mean needs values and as many names of clusters, got {len(values)} and {len(clusters)}; measure "
            f"something"
        )
    _, owner = np.unique(clusters, return_inverse=True)
    means = np.bincount(owner, weights=values) / np.bincount(owner)
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("inf")
    return Mean(float(means.mean()), error, len(means))


def with_error(numbers: Mapping[str, Any], digits: int = 3) -> str:
    """What `Mean.numbers` says, as a table shows it: a mean and its standard error, a dash where that is not known."""
    error = "–" if numbers["se"] is None else f"{numbers['se']:.{digits}f}"
    return f"{numbers['mean']:+.{digits}f} ± {error}"
