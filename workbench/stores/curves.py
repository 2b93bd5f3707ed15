"""The curves of one run: values over step, tokens or time, smoothed, thinned to what a screen can show, and followed.

Smoothing is an exponentially weighted mean whose weights halve every `half_life` points; it begins anew where the axis
goes back (another stage, another history) and never looks ahead. Thinning keeps the lowest and the highest point of
every stretch, so no spike is lost. Both are computed from the rows as they are, never from what was drawn before.

Rows are kept as numbers, of each kind at most ROWS_KEPT; the oldest go first. Deliberately ignorant of other runs and
of plots.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from megacontext.telemetry import SCHEMAS, TelemetryTail
from megacontext.telemetry.reader import newest_rows
from workbench.stores.metrics import KINDS, METRICS, ROW, Metric, columns_of_curves, residency
from workbench.stores.recipes import find, read_recipe
from workbench.stores.runs import RunInfo, read_info

ROWS_KEPT = 1_000_000
POINTS_DRAWN = 1_600
"""Points of a line that is drawn at once; about the pixels of the widest plot."""
REST_S = 0.2
"""Several pages that follow one run look at its folder once in so many seconds."""
_HALF_LIVES = 20
"""After so many half-lives a point weighs a millionth: what lies before is left out where a line is continued."""


@dataclass(frozen=True)
class Points:
    """Points of a line, in order. `x` and `value` are NaN where the line breaks: the axis went back there."""

    x: np.ndarray  # float64 (N,)
    value: np.ndarray  # float64 (N,)
    smooth: np.ndarray  # float64 (N,)

    def __len__(self) -> int:
        return len(self.x)


class RunCurves:
    """Raises ConfigError at once if `path` is no run folder, and in `refresh` when it stops being one."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = self.path.name
        self.info: RunInfo = read_info(self.path)
        self._begin()
        _, self.recipe = read_recipe(self.path)
        known = find(self.recipe, "block_size")
        self.block_size = known if isinstance(known, int) else None
        """K, by the recipe, or else by what a gist of level 1 spans; None before either is known."""
        self._rest_until = 0.0
        self.refresh()

    def _begin(self) -> None:
        self._tail = TelemetryTail(self.path / "telemetry")
        self._frames = {kind: _empty(kind) for kind in KINDS}
        self._had: dict[str, tuple[int, bool]] = {}
        """Rows that were looked at for each metric, and whether any had a value."""

    def refresh(self) -> None:
        """Take in what was written since. Raises ConfigError."""
        if time.monotonic() < self._rest_until:
            return
        info = read_info(self.path)
        if info.started != self.info.started:
            # Another run in a folder of the same name.
            self._begin()
        self.info = info
        for kind in KINDS:
            fresh = self._tail.new(kind)
            if len(fresh):
                self._frames[kind] = _grown(self._frames[kind], fresh, kind)
        if self.block_size is None and len(self._frames["focus"]):
            first = newest_rows(self.path / "telemetry", "entry").filter(pl.col("lod") == 1).head(1)
            self.block_size = None if first.is_empty() else int(first["stop"][0] - first["start"][0])
            self._had.pop("residency", None)
        self._rest_until = time.monotonic() + REST_S

    @property
    def live(self) -> bool:
        """Whether more is to come."""
        return self.info.state() == "running"

    def taken(self, kind: str) -> int:
        """Rows of a kind that were taken in, those that are kept no more included."""
        frame = self._frames[kind]
        return int(frame[ROW][-1]) + 1 if len(frame) else 0

    def has(self, metric: Metric) -> bool:
        """Whether any row has a value of the metric."""
        taken, found = self._had.get(metric.name, (0, False))
        frame = self._frames[metric.kind]
        if not found and taken != (now := self.taken(metric.kind)):
            # What was there once stays; what was not is looked for in the rows that came since.
            fresh = frame.tail(max(0, now - taken))
            found = fresh.select(self._value(metric).is_not_null().any()).item()
            self._had[metric.name] = (now, found)
        return found

    def metrics(self) -> list[Metric]:
        """Those with a value, in the order of METRICS."""
        return [metric for metric in METRICS if self.has(metric)]

    def points(self, metric: Metric, axis: str, half_life: int = 0, since: int = 0) -> Points:
        """The line of a metric over `axis`, of rows from number `since` on. Half-life 0: not smoothed.

        A line that is continued is the same as one drawn at once, to a millionth.
        """
        column, _ = metric.stands_over(axis)
        rows = (
            self._frames[metric.kind]
            .select(
                pl.col(ROW), pl.col(column).cast(pl.Float64).alias("x"), self._value(metric).alias("value")
            )
            .drop_nulls()
        )
        first = int(rows[ROW].search_sorted(since)) if since else 0
        begin = max(0, first - metric.tail_rows - _HALF_LIVES * half_life - 1)
        rows = rows[begin:]
        rows = rows.with_columns(part=(pl.col("x").diff() < 0).fill_null(False).cum_sum())
        if metric.quantile is not None:
            rows = rows.with_columns(
                pl.col("value").rolling_quantile(
                    metric.quantile, interpolation="linear", window_size=metric.tail_rows, min_samples=1
                )
            )
        elif metric.rolling:
            rows = rows.with_columns(
                pl.col("value").rolling_mean(window_size=metric.tail_rows, min_samples=1)
            )
        smooth = pl.col("value").ewm_mean(half_life=half_life).over("part") if half_life else pl.col("value")
        rows = rows.with_columns(smooth=smooth)
        # The last point that is known already says whether the first new one goes on from it.
        known = first - begin
        return _broken(rows[max(0, known - 1) :], drop_first=known > 0)

    def _value(self, metric: Metric) -> pl.Expr:
        value = residency(self.block_size) if metric.name == "residency" else metric.value
        return value.cast(pl.Float64).fill_nan(None)


def thinned(points: Points, most: int = POINTS_DRAWN) -> Points:
    """At most about `most` points: the lowest and the highest of every stretch, breaks, the first and the last."""
    if len(points) <= most:
        return points
    edges = np.linspace(0, len(points), most // 2 + 1).astype(np.int64)
    starts = edges[:-1]
    value = points.value
    stretch = np.repeat(np.arange(len(starts)), np.diff(edges))
    by_value = np.lexsort((value, stretch))
    finite = np.isfinite(value[by_value])
    # NaN sorts last within its stretch: the highest is the last finite one.
    counts = np.add.reduceat(finite.astype(np.int64), starts)
    lowest = by_value[starts]
    highest = by_value[starts + np.maximum(counts - 1, 0)]
    keep = np.unique(np.concatenate([[0, len(points) - 1], lowest, highest, np.flatnonzero(np.isnan(value))]))
    return Points(points.x[keep], value[keep], points.smooth[keep])


def _empty(kind: str) -> pl.DataFrame:
    return pl.DataFrame(
        schema={ROW: pl.Int64()} | {name: SCHEMAS[kind][name] for name in columns_of_curves(kind)}
    )


def _grown(frame: pl.DataFrame, fresh: pl.DataFrame, kind: str) -> pl.DataFrame:
    first = int(frame[ROW][-1]) + 1 if len(frame) else 0
    numbered = fresh.select(
        (pl.int_range(pl.len(), dtype=pl.Int64()) + first).alias(ROW), *columns_of_curves(kind)
    )
    grown = pl.concat([frame, numbered])
    if len(grown) > ROWS_KEPT:
        # A quarter at a time, or every new row would move all the others.
        grown = grown.tail(ROWS_KEPT * 3 // 4)
    return grown.rechunk() if grown.n_chunks() > 32 else grown


def _broken(rows: pl.DataFrame, drop_first: bool) -> Points:
    """Rows as points, with a NaN where another part begins."""
    x, value, smooth = (rows[name].to_numpy() for name in ("x", "value", "smooth"))
    at = np.flatnonzero(np.diff(rows["part"].to_numpy())) + 1
    x, value, smooth = (np.insert(column, at, np.nan) for column in (x, value, smooth))
    return Points(x[drop_first:], value[drop_first:], smooth[drop_first:])
