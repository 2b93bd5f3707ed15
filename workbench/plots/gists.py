"""Gists laid out on two axes: one dot a node, coloured by its document or by its place in the history."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import polars as pl

from workbench.palette import CHOSEN, NEUTRAL, class_colour
from workbench.plots.style import framed
from workbench.plots.tree import colours_of
from workbench.text import visible

_DETAILS = ["colour", "node", "name", "words", "lod", "index"]


def gist_columns(points: pl.DataFrame, by: str = "document") -> dict[str, Any]:
    """Columns x, y and those of the tooltips, from points with lod, index, start, document, name and text.

    `by` is document or place.
    """
    if by == "document":
        colours = [NEUTRAL if one < 0 else class_colour(one) for one in points["document"]]
    else:
        starts = points["start"].to_numpy().astype(np.float64)
        colours = list(colours_of(starts, "plain", (0.0, max(float(starts.max(initial=1)), 1.0))))
    return {
        "x": points["x"].to_numpy(), "y": points["y"].to_numpy(), "colour": colours,
        "node": [f"L{lod} · {index:,}" for lod, index in points.select("lod", "index").iter_rows()],
        "name": [visible(one[:60]) for one in points["name"]],
        "words": [visible(" ".join(one.split())[:90]) for one in points["text"]],
        "lod": points["lod"].to_list(), "index": points["index"].to_list(),
    }  # fmt: skip


def gist_scatter(
    points: pl.DataFrame,
    by: str = "document",
    explained: tuple[float, float] | None = None,
    chosen: tuple[float, float] | None = None,
    height_px: int = 520,
) -> hv.Overlay:
    """The dots, and a ring around the chosen one. `explained` is the share of variance along each axis."""
    dots = hv.Points(gist_columns(points, by), ["x", "y"], _DETAILS).opts(
        color="colour", line_alpha=0, fill_alpha=0.8, size=6, tools=["hover", "tap"], nonselection_alpha=0.8,
        hover_tooltips=[("node", "@node"), ("document", "@name"), ("begins", "@words")],
    )  # fmt: skip
    ring = hv.Points([] if chosen is None else [chosen], ["x", "y"]).opts(
        size=16, fill_alpha=0, line_color=CHOSEN, line_width=3
    )
    names = [
        f"component {number}" if share is None else f"component {number}, {100 * share:.1f} % of the variance"
        for number, share in zip((1, 2), explained or (None, None), strict=True)
    ]
    tools = ["pan", "wheel_zoom", "reset"]
    layers = [dots.opts(default_tools=tools), ring.opts(default_tools=[])]
    return hv.Overlay(layers).opts(
        **framed(height_px, xlabel=names[0], ylabel=names[1], show_grid=True, show_legend=False, padding=0.06)
        | {"default_tools": tools, "active_tools": ["pan"]}
    )
