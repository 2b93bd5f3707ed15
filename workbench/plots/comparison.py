"""One metric of several runs in one frame: the raw line faint, the smoothed one over it, a colour a run.

Lines come ready, as arrays: x, value and smooth, NaN where a line breaks. Without smoothing the two lie on one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import holoviews as hv
import numpy as np

from workbench.palette import SERIES
from workbench.plots.style import TOKENS, framed, numbers

Line = Mapping[str, np.ndarray]
RAW_ALPHA = 0.28
"""Of the raw line below a smoothed one: seen, and not in the way."""
COLUMNS = ("x", "value", "smooth")


def compared_curves(
    lines: Mapping[str, Line],
    *,
    x_label: str,
    unit: str,
    y_format: str = "0.[00]",
    colours: Sequence[str] = SERIES,
    height_px: int = 200,
) -> hv.Overlay:
    """The lines by the names of their runs, in the order of `colours`; two elements a run, the faint one first."""
    layers: list[hv.Element] = []
    for place, (name, line) in enumerate(lines.items()):
        colour = colours[place % len(colours)]
        columns = {column: line[column] for column in COLUMNS}
        raw = hv.Curve(columns, "x", ["value", "smooth"], label=name).opts(
            color=colour, alpha=RAW_ALPHA, line_width=1.0
        )
        over = hv.Curve(columns, "x", ["smooth", "value"], label=name).opts(
            color=colour, line_width=1.8, tools=["hover"],
            hover_tooltips=[("run", name), ("at", "@x{0,0.[00]}"), (f"raw, {unit}", "@value{0,0.[0000]}"),
                            (f"smoothed, {unit}", "@smooth{0,0.[0000]}")],
        )  # fmt: skip
        layers += [raw, over]
    return hv.Overlay(layers or [hv.Curve([], "x", "value")]).opts(
        **framed(
            height_px, xlabel=x_label, ylabel=unit, show_grid=True, padding=(0.01, 0.1), show_legend=False,
            hooks=[numbers(TOKENS, y_format), _few_ticks], default_tools=["xpan", "xwheel_zoom", "reset"],
        )
    )  # fmt: skip


def limits(lines: Sequence[Line]) -> tuple[float, float, float, float] | None:
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


def _few_ticks(plot: object, element: hv.Element) -> None:
    """A narrow plot has room for few numbers below it."""
    for axis in (*plot.state.below, *plot.state.left):
        axis.ticker.desired_num_ticks = 5
