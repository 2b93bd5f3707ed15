"""How every plot looks, once: one frame, aligned axes, one size of type, tools that do not steal the scroll wheel.

Colours of text, axes and grounds are left to whoever shows the plot, so that one element serves both themes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv

# What `hv.extension("bokeh")` does for scripts, without its notebook JavaScript; the import registers the backend.
import holoviews.plotting.bokeh

hv.Store.set_current_backend("bokeh")

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


def aligned(plot: Any, element: Any) -> None:
    """A HoloViews hook: the same margins for every figure, no frame line."""
    figure = plot.state
    figure.min_border_left, figure.min_border_right = LEFT_PX, RIGHT_PX
    figure.outline_line_color = None
    figure.toolbar.logo = None
    figure.background_fill_alpha = figure.border_fill_alpha = 0.0
    for axis in (*figure.xaxis, *figure.yaxis):
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


def numbers(x: str | None = None, y: str | None = None) -> Any:
    """A hook that formats the ticks of an axis as numbers: "0%", "0.[0]a" for 16k and 1.2m."""

    def apply(plot: Any, element: Any) -> None:
        from bokeh.models import NumeralTickFormatter

        for pattern, axes in ((x, plot.state.below), (y, plot.state.left)):
            for axis in axes if pattern else ():
                if not isinstance(axis.formatter, NumeralTickFormatter):
                    axis.formatter = NumeralTickFormatter(format=pattern)

    return apply


def columns(frame: Any, names: Mapping[str, str] | list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Columns of a polars frame as arrays, the form in which elements take them."""
    return {name: frame[name].to_numpy() for name in names}
