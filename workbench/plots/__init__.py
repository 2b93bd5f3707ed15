"""Plots: plain functions from a polars frame to a HoloViews element, shared by pages, reports and notebooks.

They compute places and colours, never results: what a frame says is drawn as it is. Deliberately ignorant of run
folders, selections and pages; only `workbench.palette` is known here.
"""

from workbench.plots.comparison import compared_curves
from workbench.plots.context import (
    context_lens,
    context_steps,
    context_strip,
    entry_boxes,
    feed_lens,
    feed_scores,
    lens_scores,
)
from workbench.plots.curves import INGEST_PANELS, TRAIN_PANELS, Panel, curves, panel_series
from workbench.plots.feeding import Feed
from workbench.plots.gists import gist_scatter
from workbench.plots.intervals import intervals, series_colours
from workbench.plots.lines import lines
from workbench.plots.results import accuracy_bars, accuracy_by_depth
from workbench.plots.steps import RowFrame, context_rows, feed_rows
from workbench.plots.tree import tree_columns, tree_pyramid

__all__ = [
    "INGEST_PANELS",
    "TRAIN_PANELS",
    "Feed",
    "Panel",
    "RowFrame",
    "accuracy_bars",
    "accuracy_by_depth",
    "compared_curves",
    "context_lens",
    "context_rows",
    "context_steps",
    "context_strip",
    "curves",
    "entry_boxes",
    "feed_lens",
    "feed_rows",
    "feed_scores",
    "gist_scatter",
    "intervals",
    "lens_scores",
    "lines",
    "panel_series",
    "series_colours",
    "tree_columns",
    "tree_pyramid",
]
