"""How every plot looks, once: one frame, aligned axes, one size of type, tools that do not steal the scroll wheel.

Colours of text, axes and grounds are left to whoever shows the plot, so that one element serves both themes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv

# What `hv.extension("bokeh")` does for scripts, without its notebook JavaScript; the import registers the backend.
import holoviews.plotting.bokeh
from bokeh.models import NumeralTickFormatter
from bokeh.plotting import figure

hv.Store.set_current_backend("bokeh")

Plot = hv.core.Dimensioned | figure
"""What draws: an element of HoloViews, or Bokeh's own figure where one is fed for hours."""

LEFT_PX, RIGHT_PX = 76, 20
"""Room beside each frame: equal everywhere, so that axes of plots above one another line up."""

TOKENS = "0.[0]a"
"""Format of an axis that counts tokens: 16k, 200k, 1.2m."""

NO_TICKS = [(0, "")]
"""For an axis of names that has none: HoloViews takes an empty list for a mistake."""

FONT_SIZES = {"labels": "12px", "xticks": "11px", "yticks": "11px", "legend": "11px", "title": "13px"}


def drawn(element: hv.Element) -> Any:
    """The HoloViews plot of an element, for who wants its figure and sources.

    Without a theme: HoloViews would give its own to the page at work, which has one. That changes every figure of the
    page, also those that its browser has not been sent yet.
    """
    return hv.renderer("bokeh").instance(theme=None).get_plot(element)


def figure_of(plot: Plot) -> figure:
    """Bokeh's figure of a plot, whichever of the two made it."""
    return plot if isinstance(plot, figure) else hv.render(plot, backend="bokeh")


def aligned(plot: Any, element: Any) -> None:
    """A HoloViews hook: the same margins for every figure, no frame line."""
    _align(plot.state)


def _align(drawn: figure) -> None:
    drawn.min_border_left, drawn.min_border_right = LEFT_PX, RIGHT_PX
    drawn.outline_line_color = None
    drawn.toolbar.logo = None
    drawn.background_fill_alpha = drawn.border_fill_alpha = 0.0
    for axis in (*drawn.xaxis, *drawn.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
        axis.axis_label_standoff = 8


def framed(height_px: int, **extra: Any) -> dict[str, Any]:
    """Options of an element or overlay that stands for itself: as wide as its place, `height_px` tall."""
    hooks = [aligned, *extra.pop("hooks", [])]
    options: dict[str, Any] = {
        "responsive": True,
        "height": height_px,
        "fontsize": FONT_SIZES,
        "hooks": hooks,
        "toolbar": None,
        "default_tools": [],
        "active_tools": [],
        "show_title": False,
    }
    return options | extra


def bare_figure(
    height_px: int, *, x_label: str, y_label: str, x_format: str, y_format: str, **extra: Any
) -> figure:
    """A figure of Bokeh itself in the same frame, for what is drawn too often to go through HoloViews."""
    made = figure(
        height=height_px, sizing_mode="stretch_width", toolbar_location=None, align="start", **extra
    )
    made.xaxis.axis_label, made.yaxis.axis_label = x_label, y_label
    made.xaxis.formatter, made.yaxis.formatter = (
        NumeralTickFormatter(format=x_format),
        NumeralTickFormatter(format=y_format),
    )
    _align(made)
    made.min_border_top = made.min_border_bottom = 10
    for axis in (*made.xaxis, *made.yaxis):
        axis.axis_label_text_font_size = FONT_SIZES["labels"]
        axis.major_label_text_font_size = FONT_SIZES["xticks"]
    return made


def numbers(x: str | None = None, y: str | None = None) -> Any:
    """A hook that formats the ticks of an axis as numbers: "0%", "0.[0]a" for 16k and 1.2m."""

    def apply(plot: Any, element: Any) -> None:
        for pattern, axes in ((x, plot.state.below), (y, plot.state.left)):
            for axis in axes if pattern else ():
                if not isinstance(axis.formatter, NumeralTickFormatter):
                    axis.formatter = NumeralTickFormatter(format=pattern)

    return apply


def columns(frame: Any, names: Mapping[str, str] | list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Columns of a polars frame as arrays, the form in which elements take them."""
    return {name: frame[name].to_numpy() for name in names}
