"""One metric of several runs in one frame: the raw line faint, the smoothed one over it, a colour a run.

Lines come ready, as arrays: x, value and smooth, NaN where a line breaks. Without smoothing the two lie on one another.
A page draws two dozen of these at once and feeds them for hours, so they are figures of Bokeh itself, which take a
fifth of the time that HoloViews takes for the same picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.plotting import figure

from workbench.palette import SERIES
from workbench.plots.style import TOKENS, bare_figure

Line = Mapping[str, np.ndarray]
RAW_ALPHA = 0.28
"""Of the raw line below a smoothed one: seen, and not in the way."""
COLUMNS = ("x", "value", "smooth")
Limits = tuple[float, float, float, float]
"""x from and to, y from and to."""


@dataclass(frozen=True)
class ComparedCurves:
    """The figure, and the points of each run in it."""

    figure: figure
    sources: tuple[ColumnDataSource, ...]


def compared_curves(
    lines: Sequence[tuple[str, Line]],
    *,
    x_label: str,
    unit: str,
    y_format: str = "0.[00]",
    colours: Sequence[str] = SERIES,
    height_px: int = 200,
) -> ComparedCurves:
    """Lines, each with the name of its run, in the order of `colours`, in ranges that fit them (see `limits`)."""
    drawn = bare_figure(
        height_px, x_label=x_label, y_label=unit, x_format=TOKENS, y_format=y_format,
        x_range=Range1d(0, 1), y_range=Range1d(0, 1), tools="xpan,xwheel_zoom,reset",
    )  # fmt: skip
    for axis in (*drawn.xaxis, *drawn.yaxis):
        axis.ticker.desired_num_ticks = 5  # a narrow plot has room for few numbers below it
    sources = tuple(ColumnDataSource({column: line[column] for column in COLUMNS}) for _, line in lines)
    shown = []
    for place, ((name, _), source) in enumerate(zip(lines, sources, strict=True)):
        colour = colours[place % len(colours)]
        drawn.line("x", "value", source=source, color=colour, alpha=RAW_ALPHA, line_width=1.0)
        shown.append(drawn.line("x", "smooth", source=source, color=colour, line_width=1.8, name=name))
    told = [("run", "$name"), ("at", "@x{0,0.[00]}"), (f"raw, {unit}", "@value{0,0.[0000]}"),
            (f"smoothed, {unit}", "@smooth{0,0.[0000]}")]  # fmt: skip
    drawn.add_tools(HoverTool(renderers=shown, tooltips=told))
    made = ComparedCurves(drawn, sources)
    show_limits(made, limits([line for _, line in lines]))
    return made


def show_limits(curves: ComparedCurves, wanted: Limits | None, old: Limits | None = None) -> None:
    """Fit the axes to what is there now. Who has zoomed in, away from the old limits, stays there."""
    if wanted is None or wanted == old:
        return
    x, y = curves.figure.x_range, curves.figure.y_range
    if old is None or (x.start, x.end) == old[:2]:
        x.update(start=wanted[0], end=wanted[1], reset_start=wanted[0], reset_end=wanted[1])
    y.update(start=wanted[2], end=wanted[3], reset_start=wanted[2], reset_end=wanted[3])


def limits(lines: Sequence[Line]) -> Limits | None:
    """Where the axes of some lines lie: x from and to, y from and to; None without a finite point.

    A few wild raw points do not flatten the rest: the middle 98 % of them and all smoothed ones fit.
    """
    xs = np.concatenate([np.zeros(0), *(line["x"] for line in lines)])
    raw = np.concatenate([np.zeros(0), *(line["value"] for line in lines)])
    smooth = np.concatenate([np.zeros(0), *(line["smooth"] for line in lines)])
    known = np.isfinite(xs) & np.isfinite(raw)
    if not known.any():
        return None
    raw, smooth, xs = raw[known], smooth[known], xs[known]
    low, high = np.quantile(raw, [0.01, 0.99])
    low, high = min(low, smooth.min()), max(high, smooth.max())
    room = 0.07 * (high - low) or 0.05 * abs(high) or 0.5
    reach = (xs.max() - xs.min()) * 0.01 or 0.5
    return xs.min() - reach, xs.max() + reach, low - room, high + room
