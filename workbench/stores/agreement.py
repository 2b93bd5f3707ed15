"""Two scorers on one context: how far they agree about its entries, and where they differ most.

Scores of different scorers have different scales, so what is compared is the order: ranks, and Spearman's correlation
of them. Entries are the same where level and index are. Deliberately ignorant of who scored, and of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

SAME = 0.05
"""Scores no further apart than this say the same."""


@dataclass(frozen=True)
class Agreement:
    """Of two rows of scores."""

    rows: pl.DataFrame
    """One row per entry that both have scored, in slot order: the entry's columns, `score`, `other`, `rank`,
    `other_rank` (1 = highest, ties share their mean) and `gap`, how many ranks higher the other puts it."""
    entries: int
    """Entries of the context, whether or not the other scored them too."""
    correlation: float | None
    """Spearman's, -1..1; None where one of them scores all alike, or fewer than two entries are shared."""

    def disputed(self, most: int = 8) -> pl.DataFrame:
        """The entries with the widest gaps, widest first. Where both say about the same, an order of ties is none."""
        differs = (pl.col("score") - pl.col("other")).abs() > SAME
        return (
            self.rows.filter((pl.col("gap") != 0) & differs)
            .sort(pl.col("gap").abs(), "slot", descending=[True, False])
            .head(most)
        )


def agreement(entries: pl.DataFrame, other: pl.DataFrame) -> Agreement:
    """Compare the scores of one context's `entries` with those in `other` (columns lod, index, score)."""
    shared = (
        entries.join(
            other.select("lod", "index", pl.col("score").alias("other")), on=["lod", "index"], how="inner"
        )
        .filter(pl.col("score").is_not_null() & pl.col("other").is_not_null())
        .sort("slot")
    )
    rows = shared.with_columns(
        rank=pl.col("score").rank("average", descending=True),
        other_rank=pl.col("other").rank("average", descending=True),
    ).with_columns(gap=pl.col("rank") - pl.col("other_rank"))
    return Agreement(rows, len(entries), _correlation(rows["rank"].to_numpy(), rows["other_rank"].to_numpy()))


def _correlation(ranks: np.ndarray, others: np.ndarray) -> float | None:
    if len(ranks) < 2 or ranks.std() == 0 or others.std() == 0:
        return None
    return float(np.corrcoef(ranks, others)[0, 1])
