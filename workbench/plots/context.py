"""The working context, drawn: which part of the history is shown at which level, and what each part costs.

A frame of entries has the columns of the telemetry kind `entry` (slot, lod, index, start, stop, cost_positions,
score, edit). Two axes are offered. Over token position a strip is true to the history, but 32 raw tokens of 200,000
are thinner than a hair; over budget position every position of the budget is equally wide. `context_lens` draws both
and joins them, entry by entry, as light through a lens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import holoviews as hv
import numpy as np
import polars as pl

from megacontext.errors import ConfigError
from workbench.palette import BAD, GOOD, NEEDED, NEUTRAL, level_colour
from workbench.plots.style import NO_TICKS, TOKENS, columns, framed, numbers

Axis = Literal["tokens", "budget"]
AXIS_LABELS = {"tokens": "token position in the history", "budget": "position in the working context"}

GAP_SHARE = 0.0008
"""Half the gap between two boxes, as a share of the axis; boxes thinner than twice that keep their width."""

_TOOLTIPS = [
    ("level", "@level"),
    ("tokens", "@start{0,0} to @stop{0,0}"),
    ("costs", "@cost_positions{0,0} positions"),
    ("score", "@score{+0.00}"),
    ("edit", "@edit"),
]
_DETAILS = ["colour", "level", "start", "stop", "cost_positions", "score", "edit"]


def entry_boxes(entries: pl.DataFrame, x: Axis = "tokens") -> pl.DataFrame:
    """Entries with `x0` and `x1` on the axis, `colour`, and `level` as text, in slot order.

    Raises ConfigError for another axis.
    """
    if x not in AXIS_LABELS:
        raise ConfigError(f"x must be one of {', '.join(AXIS_LABELS)}, got {x!r}; choose one of them")
    entries = entries.sort("slot")
    ends = pl.col("stop") if x == "tokens" else pl.col("cost_positions").cum_sum()
    begins = pl.col("start") if x == "tokens" else ends - pl.col("cost_positions")
    lods = entries["lod"].to_list()
    return entries.with_columns(
        x0=begins.cast(pl.Float64),
        x1=ends.cast(pl.Float64),
        colour=pl.Series([level_colour(lod) for lod in lods], dtype=pl.String),
        level=pl.Series(["raw tokens" if lod == 0 else f"L{lod} gist" for lod in lods], dtype=pl.String),
        score=pl.col("score").cast(pl.Float64),
        edit=pl.col("edit").fill_null(""),
    )


def context_strip(entries: pl.DataFrame, x: Axis = "tokens", height_px: int = 110) -> hv.Rectangles:
    """One working context as a strip of levels; hover shows span, level, cost and score."""
    boxes = _with_gaps(entry_boxes(entries, x)).with_columns(y0=pl.lit(0.0), y1=pl.lit(1.0))
    return _rectangles(boxes, x).opts(
        **framed(height_px, xlabel=AXIS_LABELS[x], ylabel="", yaxis=None, ylim=(0, 1), tools=["hover"],
                 **_x_format(x)),
        xlim=_limits(boxes), hover_tooltips=_TOOLTIPS, **_fill(),
    )  # fmt: skip


def context_steps(entries: pl.DataFrame, x: Axis = "tokens", height_px: int | None = None) -> hv.Rectangles:
    """One strip per refocus step, the first on top; needs the column `step` too."""
    steps = entries["step"].unique().sort().to_list()
    parts = [
        _with_gaps(entry_boxes(entries.filter(pl.col("step") == step), x)).with_columns(
            y0=pl.lit(row + 0.08), y1=pl.lit(row + 0.92)
        )
        for row, step in enumerate(steps)
    ]
    boxes = pl.concat(parts) if parts else _with_gaps(entry_boxes(entries, x)).with_columns(y0=0.0, y1=1.0)
    ticks = [(row + 0.5, str(step)) for row, step in enumerate(steps)] or NO_TICKS
    return _rectangles(boxes, x).opts(
        **framed(
            height_px or 76 + 24 * max(len(steps), 1), xlabel=AXIS_LABELS[x], ylabel="refocus step", yticks=ticks,
            ylim=(0, max(len(steps), 1)), invert_yaxis=True, tools=["hover"],
            **_x_format(x),
        ),
        xlim=_limits(boxes), hover_tooltips=_TOOLTIPS, **_fill(),
    )  # fmt: skip


def context_lens(entries: pl.DataFrame, needed: Sequence[int] = (), height_px: int = 215) -> hv.Overlay:
    """History above, working context below, and a ribbon from each entry's span to the positions that it costs.

    `needed` marks tokens, such as those in the middle of the blocks that hold the answer.
    """
    below = entry_boxes(entries, "budget")
    total = max(float(below["x1"].max() or 1), 1.0)
    tokens = max(float(entries["stop"].max() or 1), 1.0)
    above = below.with_columns(x0=pl.col("start") / tokens * total, x1=pl.col("stop") / tokens * total)
    lanes = pl.concat([
        _with_gaps(above, total).with_columns(y0=pl.lit(2.3), y1=pl.lit(3.0)),
        _with_gaps(below, total).with_columns(y0=pl.lit(0.0), y1=pl.lit(0.7)),
    ])  # fmt: skip
    ribbons = hv.Polygons(_ribbons(above, below), ["x", "y"], "colour").opts(
        color="colour", line_alpha=0, fill_alpha=0.22
    )

    def second_axis(plot: hv.plotting.bokeh.ElementPlot, element: hv.Element) -> None:
        _tokens_above(plot.state, tokens, total)

    boxes = _rectangles(lanes, "budget").opts(tools=["hover"], hover_tooltips=_TOOLTIPS, **_fill())
    ticks = [(2.65, "history"), (0.35, "context")]
    at = np.asarray(needed, dtype=np.float64)
    marks = hv.Points({"x": at / tokens * total, "y": np.full(len(at), 3.18), "token": at}, ["x", "y"], "token").opts(
        marker="inverted_triangle", size=9, color=NEEDED, line_color=NEEDED, tools=["hover"],
        hover_tooltips=[("the answer stands at token", "@token{0,0}")],
    )  # fmt: skip
    return (ribbons * boxes * marks).opts(
        **framed(
            height_px, xlabel=AXIS_LABELS["budget"], ylabel="", yticks=ticks, ylim=(0, 3.32), xlim=(0, total),
            hooks=[second_axis],
        )
    )  # fmt: skip


def lens_scores(
    entries: pl.DataFrame, x: Axis = "budget", threshold: float | None = None, height_px: int = 190
) -> hv.Overlay:
    """The signed score of each entry as a bar from 0, coloured by level; edits are marked at its end.

    `threshold` draws the two lines beyond which an entry may be expanded or collapsed.
    """
    boxes = _with_gaps(entry_boxes(entries, x)).with_columns(
        y0=pl.min_horizontal(pl.lit(0.0), pl.col("score")), y1=pl.max_horizontal(pl.lit(0.0), pl.col("score"))
    )
    bars = _rectangles(boxes.with_columns(pl.col("y0", "y1").fill_null(0.0)), x).opts(
        hover_tooltips=_TOOLTIPS, tools=["hover"], **_fill()
    )
    lines = [hv.HLine(0).opts(color=NEUTRAL, line_width=1)]
    for level in () if threshold is None else (threshold, -threshold):
        lines.append(hv.HLine(level).opts(color=NEUTRAL, line_width=1, line_dash="dashed", alpha=0.7))
    marks = [
        _edit_marks(boxes, "expand", "triangle", GOOD),
        _edit_marks(boxes, "collapse", "inverted_triangle", BAD),
    ]
    return hv.Overlay([*lines, bars, *marks]).opts(
        **framed(
            height_px, xlabel=AXIS_LABELS[x], ylabel="score", ylim=(-1.12, 1.12), xlim=_limits(boxes),
            yticks=[-1, -0.5, 0, 0.5, 1], show_legend=False, **_x_format(x),
        )
    )  # fmt: skip


def _rectangles(boxes: pl.DataFrame, x: Axis) -> hv.Rectangles:
    return hv.Rectangles(
        columns(boxes, ["x0", "y0", "x1", "y1", *_DETAILS]), ["x0", "y0", "x1", "y1"], _DETAILS
    )


def _fill() -> dict[str, object]:
    # A line of its own colour, one pixel wide, keeps visible what would be thinner than a pixel.
    return {"color": "colour", "line_color": "colour", "line_width": 1}


def _x_format(x: Axis) -> dict[str, object]:
    return {"hooks": [numbers(x=TOKENS)]} if x == "tokens" else {}


def _limits(boxes: pl.DataFrame) -> tuple[float, float]:
    return (0.0, max(float(boxes["x1"].max() or 1), 1.0))


def _with_gaps(boxes: pl.DataFrame, total: float | None = None) -> pl.DataFrame:
    """Boxes drawn in a little on both sides where they are wide enough, so that neighbours stay apart."""
    gap = GAP_SHARE * (total or _limits(boxes)[1])
    gap_here = pl.when(pl.col("x1") - pl.col("x0") > 4 * gap).then(gap).otherwise(0.0)
    return boxes.with_columns(x0=pl.col("x0") + gap_here, x1=pl.col("x1") - gap_here)


def _edit_marks(boxes: pl.DataFrame, edit: str, marker: str, colour: str) -> hv.Points:
    at = boxes.filter(pl.col("edit") == edit)
    height = (at["score"].fill_null(0.0) + (0.07 if edit == "expand" else -0.07)).to_numpy()
    points = {"x": ((at["x0"] + at["x1"]) / 2).to_numpy(), "score": height}
    return hv.Points(points, ["x", "score"]).opts(
        marker=marker, size=9, color=colour, line_color=colour, tools=[], show_legend=False
    )


def _ribbons(above: pl.DataFrame, below: pl.DataFrame) -> list[dict[str, object]]:
    """One ribbon per run of neighbours of the same level, not per entry: fewer seams, the same picture."""
    if below.is_empty():
        return []
    lods = below["lod"].to_numpy()
    first = np.flatnonzero(np.r_[True, lods[1:] != lods[:-1]])
    last = np.r_[first[1:], len(lods)] - 1
    a0, a1 = above["x0"].to_numpy()[first], above["x1"].to_numpy()[last]
    b0, b1 = below["x0"].to_numpy()[first], below["x1"].to_numpy()[last]
    return [
        {
            "x": [a0[i], a1[i], b1[i], b0[i]],
            "y": [2.3, 2.3, 0.7, 0.7],
            "colour": level_colour(int(lods[slot])),
        }
        for i, slot in enumerate(first)
    ]


def _tokens_above(figure: object, tokens: float, total: float) -> None:
    """A second axis on top that counts tokens. The lanes share one scale; only the labels differ."""
    from bokeh.models import LinearAxis, NumeralTickFormatter, Range1d

    if "tokens" in figure.extra_x_ranges:
        # A figure that is drawn on keeps its first limits, and gives every axis the label of the one below.
        figure.x_range.end, figure.extra_x_ranges["tokens"].end = total, tokens
        figure.above[0].axis_label = AXIS_LABELS["tokens"]
        return
    figure.extra_x_ranges = {"tokens": Range1d(0, tokens)}
    axis = LinearAxis(
        x_range_name="tokens", axis_label=AXIS_LABELS["tokens"], formatter=NumeralTickFormatter(format=TOKENS),
        axis_label_text_font_size="12px", major_label_text_font_size="11px", minor_tick_line_color=None,
        axis_label_text_font_style="normal",
    )  # fmt: skip
    figure.add_layout(axis, "above")
