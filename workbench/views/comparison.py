"""The curves of one or more runs, side by side and live: a card a metric, a colour a run.

A figure is made once for a choice of runs. While a run goes on, points are streamed into its data sources; another axis
or smoothing, or a line that has become long, exchanges the points, and the figure stays.
"""

from __future__ import annotations

import numpy as np
import panel as pn

from workbench import plots
from workbench.palette import SERIES
from workbench.plots.comparison import COLUMNS, Line, limits, show_limits
from workbench.stores.comparison import Comparison
from workbench.stores.curves import POINTS_DRAWN, Points, RunCurves, thinned
from workbench.stores.metrics import Metric
from workbench.text import series_legend, visible
from workbench.views.parts import CARD_CSS, heading, prose

POINTS_KEPT = 3 * POINTS_DRAWN
"""Points of a line on a page; one more, and they are thinned anew from what the run recorded."""
FIGURE_NAME = "curve of {}"
"""Of a figure in the page, by its metric: how the page finds what it is to save."""


class CurveCard:
    """One metric of all compared runs."""

    def __init__(self, metric: Metric, comparison: Comparison, axis: str, half_life: int):
        self.metric, self.comparison = metric, comparison
        self.axis, self.half_life = axis, half_life
        lines = self._take_all()
        self._curves = plots.compared_curves(
            [(visible(name)[:60], line) for name, line in lines.items()],
            x_label=metric.stands_over(axis)[1], unit=metric.unit, y_format=metric.format,
        )  # fmt: skip
        self.figure = self._curves.figure
        self.figure.name = FIGURE_NAME.format(metric.name)
        self._sources = dict(zip(lines, self._curves.sources, strict=True))
        self._limits = limits(list(lines.values()))
        self._last = prose("")
        self._show_last()
        self.card = pn.Column(
            prose(heading(metric.title, "")), self._last,
            pn.pane.Bokeh(self.figure, sizing_mode="stretch_width", margin=0),
            stylesheets=[CARD_CSS], sizing_mode="stretch_width", margin=0,
        )  # fmt: skip

    def show(self, axis: str, half_life: int) -> None:
        """Stand over another axis, or be smoothed otherwise."""
        self.axis, self.half_life = axis, half_life
        lines = self._take_all()
        for name, line in lines.items():
            self._sources[name].data = dict(line)
        self.figure.below[0].axis_label = self.metric.stands_over(axis)[1]
        self._limits = None
        self._show_limits(list(lines.values()))
        self._show_last()

    def _take_all(self) -> dict[str, Line]:
        runs = self.comparison.runs
        self._taken = {name: run.taken(self.metric.kind) for name, run in runs.items()}
        return {name: _line(self._points(run)) for name, run in runs.items()}

    def feed(self) -> None:
        """Show the rows that the runs have recorded since."""
        moved = False
        for name, run in self.comparison.runs.items():
            taken = run.taken(self.metric.kind)
            if taken == self._taken[name]:
                continue
            anew = taken < self._taken[name]  # another run has come into a folder of the same name
            fresh = run.points(self.metric, self.axis, self.half_life, since=0 if anew else self._taken[name])
            self._taken[name] = taken
            if not (len(fresh) or anew):
                continue
            moved = True
            source = self._sources[name]
            if anew or len(source.data["x"]) + len(fresh) > POINTS_KEPT:
                source.data = _line(self._points(run))
            else:
                source.stream(_line(fresh))
        if moved:
            self._show_limits([source.data for source in self._sources.values()])
            self._show_last()

    def _points(self, run: RunCurves) -> Points:
        return thinned(run.points(self.metric, self.axis, self.half_life))

    def _show_limits(self, lines: list[Line]) -> None:
        wanted = limits(lines)
        show_limits(self._curves, wanted, self._limits)
        self._limits = wanted or self._limits

    def _show_last(self) -> None:
        names, colours = [], []
        for place, (name, source) in enumerate(self._sources.items()):
            smooth = source.data["smooth"]
            if len(smooth):
                names.append(f"{name}  {number(float(smooth[-1]), self.metric.format)}")
                colours.append(SERIES[place % len(SERIES)])
        shown = str(series_legend(names, colours))
        if shown != self._last.object:
            self._last.object = shown


def number(value: float, pattern: str) -> str:
    """A value as the axis of its metric would have it, with the digits that tell values apart."""
    if "%" in pattern:
        return f"{100 * value:.1f} %"
    if abs(value) >= 1000 or abs(value) < 1e-6:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _line(points: Points) -> dict[str, np.ndarray]:
    return {column: getattr(points, column) for column in COLUMNS}
