"""Working contexts above one another, each a row of levels over one axis: all refocus steps of a question, or two ways.

Rows come as a raster (`workbench.stores.steps.level_raster`), so that sixty steps of three hundred entries cost as much
as two of ten. The entry that covers the answer is marked in every row: green where it stands as tokens, white where it
is folded. Which row is chosen is shown by a frame that moves without anything being drawn anew. Deliberately ignorant
of scores and runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np
import polars as pl

from workbench.palette import LEVELS, NEEDED, NEUTRAL
from workbench.plots.context import AXIS_LABELS, Axis
from workbench.plots.feeding import Feed, of_image
from workbench.plots.style import NO_TICKS, TOKENS, framed, numbers

MOST_TICKS = 12
"""Rows that are named at most."""
MOST_LINES = 24
"""Rows that are kept apart by lines at most; more are too thin for it."""


class RowFrame:
    """A frame around one row of a drawn `context_rows`; `move` is one message to the page."""

    def __init__(self) -> None:
        self._box: Any = None
        self._place = (0.0, 0.0)

    def move(self, row: int, rows: int) -> None:
        """Around `row`, counted from the top."""
        self._place = float(rows - row - 1), float(rows - row)
        if self._box is not None:
            self._box.update(bottom=self._place[0], top=self._place[1])

    def __call__(self, plot: Any, element: Any) -> None:
        """A HoloViews hook: add the frame to the figure that was made."""
        from bokeh.models import BoxAnnotation

        bottom, top = self._place
        if self._box is None or self._box not in plot.state.center:
            self._box = BoxAnnotation(
                bottom=bottom, top=top, fill_alpha=0, line_color=NEUTRAL, line_width=3, line_alpha=1.0,
                level="overlay",
            )  # fmt: skip
            plot.state.add_layout(self._box)


def context_rows(
    levels: np.ndarray,
    labels: Sequence[str],
    end: float,
    axis: Axis = "budget",
    *,
    needed: pl.DataFrame | None = None,
    frame: RowFrame | None = None,
    feed: Feed | None = None,
    ylabel: str = "refocus step",
    height_px: int | None = None,
) -> hv.Overlay:
    """Levels (S, C), the first row on top, over an axis that ends at `end`; -1 is left blank.

    `needed` has the columns row (from 0, the top), token, lod and position. `feed` takes as many other rows by
    `feed_rows`.
    """
    rows = max(len(labels), 1)
    # The first row of an image is its top one, with the highest place on the axis.
    image = hv.Image(_coloured(levels), ["place", "row"], "level", bounds=(0.0, 0.0, end, float(rows))).opts(
        cmap=list(LEVELS), clim=(-0.5, len(LEVELS) - 0.5), tools=["hover"],
        hover_tooltips=[("level", "@image{0}"), (AXIS_LABELS[axis], "$x{0,0}")],
        hooks=[] if feed is None else [feed.part("image")],
    )  # fmt: skip
    lines = [hv.HLine(row).opts(color=NEUTRAL, line_width=1, alpha=0.4) for row in range(1, rows)]
    every = -(-rows // MOST_TICKS)
    ticks = [(rows - row - 0.5, label) for row, label in enumerate(labels) if row % every == 0]
    return hv.Overlay(
        [image, *(lines if rows <= MOST_LINES else []), *_needed_marks(needed, rows, axis, feed)]
    ).opts(
        **framed(
            height_px or 76 + _rows_px(rows), xlabel=AXIS_LABELS[axis], ylabel=ylabel, yticks=ticks or NO_TICKS,
            xlim=(0.0, end), ylim=(0.0, float(rows)), show_legend=False, show_grid=False,
            hooks=[*([numbers(x=TOKENS)] if axis == "tokens" else []), *([] if frame is None else [frame])],
        )
    )  # fmt: skip


def _rows_px(rows: int) -> int:
    """Twenty-six pixels a row where there are few, down to seven where there are many."""
    return rows * max(7, min(26, 400 // rows))


def feed_rows(feed: Feed, levels: np.ndarray, end: float, axis: Axis, needed: pl.DataFrame) -> None:
    """Other levels into `context_rows` that were drawn with that feed, end and as many rows."""
    rows = len(levels)
    marks = {name: _mark_columns(needed, rows, axis, folded) for name, folded in _MARKS.items()}
    feed.give(image=of_image(_coloured(levels), end, float(rows)), **marks)


_MARKS = {"as tokens": False, "folded": True}


def _coloured(levels: np.ndarray) -> np.ndarray:
    """Numbers of colours; NaN where nothing is. At least one row and column."""
    if not levels.size:
        return np.full((1, 1), np.nan)
    return np.where(levels < 0, np.nan, np.minimum(levels, len(LEVELS) - 1)).astype(np.float32)


def _mark_columns(needed: pl.DataFrame, rows: int, axis: Axis, folded: bool) -> dict[str, np.ndarray]:
    part = needed.filter((pl.col("lod") > 0) == folded)
    return {
        "place": part["token" if axis == "tokens" else "position"].cast(pl.Float64).to_numpy(),
        "row": rows - 0.5 - part["row"].cast(pl.Float64).to_numpy(),
        "token": part["token"].to_numpy(),
    }


def _needed_marks(needed: pl.DataFrame | None, rows: int, axis: Axis, feed: Feed | None) -> list[hv.Points]:
    """Two elements: where the answer stands as tokens, and where it is folded."""
    if needed is None:
        return []
    return [
        hv.Points(_mark_columns(needed, rows, axis, folded), ["place", "row"], "token").opts(
            marker="diamond", size=11 if rows <= MOST_LINES else 6, color="#FFFFFF" if folded else NEEDED,
            line_color="#0B0D10", line_width=1.5, tools=["hover"],
            hover_tooltips=[("the answer", name), ("token", "@token{0,0}")],
            hooks=[] if feed is None else [feed.part(name)],
        )
        for name, folded in _MARKS.items()
    ]  # fmt: skip
