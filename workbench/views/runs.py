"""How do training and ingestion come along, second by second?

A page on a live run stays as it is and only takes in points: lines are fed through Bokeh's data sources.
"""

from __future__ import annotations

import holoviews as hv
import numpy as np
import panel as pn
import polars as pl
from bokeh.models import ColumnDataSource, Range1d

from workbench import plots
from workbench.desk import Desk
from workbench.palette import SERIES
from workbench.plots.curves import Panel, Series, panel_series
from workbench.text import series_legend
from workbench.views.parts import card, empty, prose, side_by_side, stack

ROLLOVER_POINTS = 20_000
"""Points of one line that a page keeps; older ones leave it, never the run."""


class RunsView:
    """One card per panel that has something to show; new panels and lines join while the run goes on."""

    needs = "run"

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self.store = desk.run
        self._lines = {panel.title: LivePanel(panel) for panel in (*plots.TRAIN_PANELS, *plots.INGEST_PANELS)}
        self._body = stack()
        self._shown: tuple[str, ...] | None = None
        self.refresh()

    def panel(self) -> pn.viewable.Viewable:
        return self._body

    def refresh(self) -> None:
        for live in self._lines.values():
            live.feed(self.store.frame(live.panel.kind))
        shown = tuple(title for title, live in self._lines.items() if live.names)
        if shown != self._shown:
            self._shown = shown
            self._body.objects = (
                [side_by_side(*(self._lines[title].card for title in shown))] if shown else [self._nothing()]
            )

    def tick(self) -> None:
        """Nothing waits."""

    def _nothing(self) -> pn.Column:
        way_out = (
            "Curves begin with the first step of training or the first tokens stored."
            if self.store.live
            else "This run left no telemetry; run it again."
        )
        return card(
            "Curves",
            "",
            prose(empty("Nothing measured yet" if self.store.live else "Nothing measured", way_out)),
        )


class LivePanel:
    """One plot whose lines grow at their ends. A line that appears later makes the plot be drawn anew."""

    def __init__(self, panel: Panel):
        self.panel = panel
        self.names: list[str] = []
        self._rows = 0
        self._sources: dict[str, ColumnDataSource] = {}
        self._figure: object = None
        self._legend = prose("")
        self._pane = pn.pane.Bokeh(None, sizing_mode="stretch_width", margin=0)
        self.card = card(panel.title, "", self._legend, self._pane)

    def feed(self, frame: pl.DataFrame) -> None:
        """Take in the rows of `frame`, which has only grown since the last call."""
        if len(frame) == self._rows:
            return
        fresh = panel_series(frame[self._rows :], self.panel)
        self._rows = len(frame)
        if set(fresh) - set(self.names):
            self._draw(frame)
        else:
            self._stream(fresh)

    def _draw(self, frame: pl.DataFrame) -> None:
        self.names = list(panel_series(frame, self.panel))
        plot = hv.renderer("bokeh").get_plot(plots.curves(frame, self.panel, show_legend=False))
        # One line per name, in the same order.
        sources = [line.handles["source"] for line in plot.subplots.values()] if plot.subplots else []
        self._sources = dict(zip(self.names, sources, strict=True))
        self._figure = plot.state
        self._pane.object = plot.state
        self._legend.object = str(series_legend(self.names, SERIES)) if len(self.names) > 1 else ""

    def _stream(self, fresh: Series) -> None:
        for name, (x, y) in fresh.items():
            self._sources[name].stream({self.panel.x: x, "value": y}, rollover=ROLLOVER_POINTS)
        if fresh:
            self._widen(fresh)

    def _widen(self, fresh: Series) -> None:
        """Let the axes hold the new points."""
        x, y = (np.concatenate([points[axis] for points in fresh.values()]) for axis in (0, 1))
        _include(self._figure.x_range, float(x.min()), float(x.max()), 0.0)
        if self.panel.y_limits is None:
            _include(self._figure.y_range, float(y.min()), float(y.max()), 0.08)


def _include(axis: Range1d, low: float, high: float, padding: float) -> None:
    room = (max(axis.end, high) - min(axis.start, low)) * padding
    if low < axis.start:
        axis.start = low - room
    if high > axis.end:
        axis.end = high + room
