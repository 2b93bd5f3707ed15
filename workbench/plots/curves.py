"""Curves of training and of ingestion: a few panels, each one quantity with its unit over one axis.

A panel says which columns of a telemetry kind it shows; `panel_series` cuts a frame into the lines, `curves` draws
them. A live page uses the first alone, to feed lines that are already on the screen.
"""

from __future__ import annotations

from dataclasses import dataclass

import holoviews as hv
import numpy as np
import polars as pl

from workbench.palette import SERIES
from workbench.plots.style import TOKENS, framed, numbers

MAX_POINTS = 2_000
"""Points of a line that is drawn at once; longer ones are thinned evenly, first and last kept."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot: which columns of which telemetry kind, over what, in which unit."""

    title: str
    kind: str
    x: str
    x_label: str
    y_label: str
    columns: tuple[tuple[str, str], ...]
    """Column and the name of its line."""
    by: str | None = None
    """Column whose values make lines of their own, instead of one line per column."""
    y_format: str = "0.[00]"
    x_format: str = TOKENS
    y_limits: tuple[float, float] | None = None
    y_scale: float = 1.0
    """Values are multiplied by this before they are drawn, to fit the unit of the label."""


TRAIN_PANELS = (
    Panel(
        title="Losses", kind="train", x="step", x_label="training step", y_label="nats",
        columns=(("loss_nats", "minimised"), ("lm_loss_nats", "next token"), ("answer_loss_nats", "answers"),
                 ("address_loss_nats", "addresses"), ("lens_loss_nats", "LensNet")),
    ),
    Panel(
        title="What works already", kind="train", x="step", x_label="training step", y_label="share right",
        columns=(("answer_accuracy", "answers"), ("address_accuracy", "addresses"), ("lens_accuracy", "LensNet")),
        y_format="0%", y_limits=(-0.03, 1.03),
    ),
    Panel(
        title="Learning rate", kind="train", x="step", x_label="training step", y_label="learning rate",
        columns=(("learning_rate", "matrices"),), y_format="0.[0000]",
    ),
    Panel(
        title="Speed", kind="train", x="step", x_label="training step", y_label="tokens/s",
        columns=(("tokens_per_s", "tokens read"),), y_format="0.[0]a",
    ),
)  # fmt: skip
INGEST_PANELS = (
    Panel(
        title="Speed of ingestion", kind="ingest", x="tokens_total", x_label="tokens stored", y_label="tokens/s",
        columns=(("tokens_per_s", "tokens/s"),), by="history", y_format="0.[0]a", x_format=TOKENS,
    ),
    Panel(
        title="Size of the store", kind="ingest", x="tokens_total", x_label="tokens stored", y_label="MB",
        columns=(("store_bytes", "MB"),), by="history", x_format=TOKENS, y_scale=1e-6,
    ),
)  # fmt: skip

Series = dict[str, tuple[np.ndarray, np.ndarray]]


def panel_series(frame: pl.DataFrame, panel: Panel) -> Series:
    """Lines of a panel, name -> (x, y), float64; rows without a value are left out, and so are lines without rows."""
    parts = (
        [(frame, column, name) for column, name in panel.columns]
        if panel.by is None
        else [
            (frame.filter(pl.col(panel.by) == value), panel.columns[0][0], str(value))
            for value in frame[panel.by].unique(maintain_order=True)
        ]
    )
    series: Series = {}
    for part, column, name in parts:
        rows = part.select(panel.x, column).drop_nulls().cast(pl.Float64)
        if len(rows):
            series[name] = (rows[panel.x].to_numpy(), rows[column].to_numpy() * panel.y_scale)
    return series


def thinned(x: np.ndarray, y: np.ndarray, max_points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `max_points` of the points, evenly, with the first and the last."""
    if len(x) <= max_points:
        return x, y
    keep = np.linspace(0, len(x) - 1, max_points).astype(np.int64)
    return x[keep], y[keep]


def curves(frame: pl.DataFrame, panel: Panel, height_px: int = 240, show_legend: bool = True) -> hv.Overlay:
    """The lines of one panel."""
    series = panel_series(frame, panel)
    lines = [
        hv.Curve(thinned(*points), panel.x, "value", label=name).opts(
            color=SERIES[place % len(SERIES)], line_width=1.8, tools=["hover"],
            hover_tooltips=[(panel.x_label, f"@{{{panel.x}}}{{0,0}}"),
                            (f"{name}, {panel.y_label}", "@value{0,0.[000]}")],
        )
        for place, (name, points) in enumerate(series.items())
    ]  # fmt: skip
    # A line needs two points; a training that has made one step has something to show, too.
    dots = [
        hv.Scatter(points, panel.x, "value").opts(color=SERIES[place % len(SERIES)], size=6)
        for place, points in enumerate(series.values())
        if len(points[0]) == 1
    ]
    return hv.Overlay([*lines, *dots] or [hv.Curve([], panel.x, "value")]).opts(
        **framed(
            height_px, xlabel=panel.x_label, ylabel=panel.y_label, hooks=[numbers(panel.x_format, panel.y_format)],
            show_grid=True, padding=(0, 0.08),
            show_legend=show_legend and len(lines) > 1, legend_position="right", legend_opts={"border_line_alpha": 0},
            **({"ylim": panel.y_limits} if panel.y_limits else {}),
        )
    )  # fmt: skip
