"""The curves of one or more runs, side by side and live: a card a metric, a colour a run.

A figure is made once for a choice of runs. While a run goes on, points are streamed into its data sources; another axis
or smoothing, or a line that has become long, exchanges the points, and the figure stays.
"""

from __future__ import annotations

import panel as pn
from bokeh.models import ColumnDataSource

from workbench import plots
from workbench.palette import SERIES
from workbench.plots.comparison import COLUMNS, Line, limits
from workbench.plots.style import drawn
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
        element = plots.compared_curves(
            {visible(name)[:60]: line for name, line in lines.items()},
            x_label=metric.stands_over(axis)[1], unit=metric.unit, y_format=metric.format,
        )  # fmt: skip
        plot = drawn(element)
        self.figure = plot.state
        self.figure.name = FIGURE_NAME.format(metric.name)
        # Two lines a run, the raw one first.
        sources = [line.handles["source"] for line in plot.subplots.values()]
        self._sources: dict[str, tuple[ColumnDataSource, ColumnDataSource]] = {
            name: (sources[2 * place], sources[2 * place + 1]) for place, name in enumerate(lines)
        }
        self._limits: tuple[float, float, float, float] | None = None
        self._show_limits(list(lines.values()))
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
            for source in self._sources[name]:
                source.data = {column: line[column] for column in source.data}
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
            anew = anew or len(self._sources[name][0].data["x"]) + len(fresh) > POINTS_KEPT
            shown = _line(self._points(run) if anew else fresh)
            for source in self._sources[name]:
                columns = {column: shown[column] for column in source.data}
                if anew:
                    source.data = columns
                else:
                    source.stream(columns)
        if moved:
            self._show_limits([over.data for _, over in self._sources.values()])
            self._show_last()

    def _points(self, run: RunCurves) -> Points:
        return thinned(run.points(self.metric, self.axis, self.half_life))

    def _show_limits(self, lines: list[Line]) -> None:
        wanted = limits(lines)
        if wanted is None or wanted == self._limits:
            return
        x, y = self.figure.x_range, self.figure.y_range
        # Who has zoomed in stays there.
        if self._limits is None or (x.start, x.end) == self._limits[:2]:
            x.update(start=wanted[0], end=wanted[1], reset_start=wanted[0], reset_end=wanted[1])
        y.update(start=wanted[2], end=wanted[3], reset_start=wanted[2], reset_end=wanted[3])
        self._limits = wanted

    def _show_last(self) -> None:
        names, colours = [], []
        for place, (name, (_, over)) in enumerate(self._sources.items()):
            smooth = over.data["smooth"]
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


def _line(points: Points) -> dict[str, object]:
    return {column: getattr(points, column) for column in COLUMNS}
