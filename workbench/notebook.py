"""What the notebooks share: values from the command line, and plots that also work in an HTML export, offline.

A page exported from marimo does not load Bokeh's scripts, so each group of figures brings them along, in a frame of
its own. Figures that belong together should go into one call: the scripts weigh more than 1 MB.
"""

from __future__ import annotations

import holoviews as hv
import marimo as mo
from bokeh.embed import file_html
from bokeh.layouts import column
from bokeh.resources import INLINE

_PADDING_PX = 40


def arguments(**defaults: int | str) -> dict[str, int | str]:
    """The defaults, or what `python NOTEBOOK.py --name value` gave for them, of the default's type."""
    given = mo.cli_args()
    return {name: type(value)(given.get(name) or value) for name, value in defaults.items()}


def offline(*elements: hv.core.Dimensioned) -> mo.Html:
    """HoloViews elements one above another, as a frame that needs nothing from elsewhere."""
    figures = [hv.render(element, backend="bokeh") for element in elements]
    page = file_html(column(*figures, sizing_mode="stretch_width"), INLINE, title="figures")
    return mo.iframe(page, height=f"{sum(figure.height or 300 for figure in figures) + _PADDING_PX}px")
