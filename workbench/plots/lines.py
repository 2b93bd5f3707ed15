"""Named lines over one axis, with a range around each point where one is known: how a figure grows with another.

The frame has the columns `series`, `x`, `y` and may have `low` and `high`. Points come in the order of the frame, and
are drawn unless `dots` is false, for a line between three measurements is a guess.
"""

from __future__ import annotations

import holoviews as hv
import polars as pl

from workbench.palette import arm_marker
from workbench.plots.intervals import series_colours
from workbench.plots.style import columns, framed, numbers


def lines(
    frame: pl.DataFrame,
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    x_format: str = "0.[0]a",
    y_format: str = "0.[00]",
    y_limits: tuple[float | None, float | None] | None = None,
    dots: bool = True,
    height_px: int = 260,
) -> hv.Overlay:
    """A line with points for each series, whiskers from low to high, a legend where there are two or more."""
    colours = series_colours(frame["series"].to_list())
    layers: list[hv.Element] = []
    for name in frame["series"].unique(maintain_order=True):
        part = frame.filter(pl.col("series") == name).drop_nulls(["x", "y"])
        points = columns(part, ["x", "y"])
        layers.append(hv.Curve(points, "x", "y", label=name).opts(color=colours[name], line_width=2))
        if "low" in part.columns and len(ranged := part.drop_nulls(["low", "high"])):
            ends = columns(ranged, ["x", "low", "high"]) | {"same": ranged["x"].to_numpy()}
            whiskers = hv.Segments(ends, ["x", "low", "same", "high"]).opts(
                color=colours[name], line_width=2, alpha=0.6
            )
            layers.append(whiskers)
        if not dots:
            continue
        layers.append(
            hv.Points(points, ["x", "y"]).opts(
                color=colours[name], size=7, marker=arm_marker(name), tools=["hover"],
                hover_tooltips=[("", name), (x_label, "@x{0,0.[00]}"), (y_label, "@y{0,0.[0000]}")],
            )
        )  # fmt: skip
    several = frame["series"].n_unique() > 1
    return hv.Overlay(layers).opts(
        **framed(
            height_px, xlabel=x_label, ylabel=y_label, logx=log_x, logy=log_y, show_grid=True, padding=(0.04, 0.12),
            hooks=[numbers(x_format, y_format)], show_legend=several, legend_position="right",
            legend_opts={"border_line_alpha": 0, "background_fill_alpha": 0},
            **({"ylim": y_limits} if y_limits else {}),
        )
    )  # fmt: skip
