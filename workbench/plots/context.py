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
from workbench.plots.feeding import Feed, of_polygons, of_rectangles
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
_BOX = ["x0", "y0", "x1", "y1", *_DETAILS]


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


def context_lens(
    entries: pl.DataFrame,
    needed: Sequence[int] = (),
    height_px: int = 215,
    *,
    end: float | None = None,
    feed: Feed | None = None,
) -> hv.Overlay:
    """History above, working context below, and a ribbon from each entry's span to the positions that it costs.

    `needed` marks tokens, such as those in the middle of the blocks that hold the answer. The axis ends at `end`
    positions (default: where this context ends); `feed` takes other entries of the same history by `feed_lens`.
    """
    lanes, ribbons, total, tokens = _lens_parts(entries, end)

    def second_axis(plot: hv.plotting.bokeh.ElementPlot, element: hv.Element) -> None:
        _tokens_above(plot.state, tokens, total)

    polygons = hv.Polygons(ribbons, ["x", "y"], "colour").opts(
        color="colour", line_alpha=0, fill_alpha=0.22, **_fed(feed, "ribbons")
    )
    boxes = _rectangles(lanes, "budget").opts(
        tools=["hover"], hover_tooltips=_TOOLTIPS, **_fill(), **_fed(feed, "boxes")
    )
    ticks = [(2.65, "history"), (0.35, "context")]
    at = np.asarray(needed, dtype=np.float64)
    marks = hv.Points({"x": at / tokens * total, "y": np.full(len(at), 3.18), "token": at}, ["x", "y"], "token").opts(
        marker="inverted_triangle", size=9, color=NEEDED, line_color=NEEDED, tools=["hover"],
        hover_tooltips=[("the answer stands at token", "@token{0,0}")],
    )  # fmt: skip
    return (polygons * boxes * marks).opts(
        **framed(
            height_px, xlabel=AXIS_LABELS["budget"], ylabel="", yticks=ticks, ylim=(0, 3.32), xlim=(0, total),
            hooks=[second_axis],
        )
    )  # fmt: skip


def feed_lens(feed: Feed, entries: pl.DataFrame, end: float) -> None:
    """Other entries into a `context_lens` that was drawn with that feed and end."""
    lanes, ribbons, _, _ = _lens_parts(entries, end)
    feed.give(boxes=of_rectangles(columns(lanes, _BOX)), ribbons=of_polygons(ribbons))


def _lens_parts(
    entries: pl.DataFrame, end: float | None
) -> tuple[pl.DataFrame, list[dict[str, object]], float, float]:
    """Boxes of both lanes, ribbons, and where the axes end: in positions, and in tokens."""
    below = entry_boxes(entries, "budget")
    total = max(end or float(below["x1"].max() or 1), 1.0)
    tokens = max(float(entries["stop"].max() or 1), 1.0)
    above = below.with_columns(x0=pl.col("start") / tokens * total, x1=pl.col("stop") / tokens * total)
    lanes = pl.concat([
        _with_gaps(above, total).with_columns(y0=pl.lit(2.3), y1=pl.lit(3.0)),
        _with_gaps(below, total).with_columns(y0=pl.lit(0.0), y1=pl.lit(0.7)),
    ])  # fmt: skip
    return lanes, _ribbons(above, below), total, tokens


def lens_scores(
    entries: pl.DataFrame,
    x: Axis = "budget",
    threshold: float | None = None,
    height_px: int = 190,
    *,
    end: float | None = None,
    feed: Feed | None = None,
) -> hv.Overlay:
    """The signed score of each entry as a bar from 0, coloured by level; edits are marked at its end.

    `threshold` draws the two lines beyond which an entry may be expanded or collapsed. `end` and `feed` as in
    `context_lens`; other entries go in by `feed_scores`.
    """
    boxes = _score_boxes(entries, x)
    bars = _rectangles(boxes, x).opts(
        hover_tooltips=_TOOLTIPS, tools=["hover"], **_fill(), **_fed(feed, "bars")
    )
    lines = [hv.HLine(0).opts(color=NEUTRAL, line_width=1)]
    for level in () if threshold is None else (threshold, -threshold):
        lines.append(hv.HLine(level).opts(color=NEUTRAL, line_width=1, line_dash="dashed", alpha=0.7))
    marks = [
        hv.Points(_edit_marks(boxes, edit), ["x", "score"]).opts(
            marker=marker, size=9, color=colour, line_color=colour, tools=[], show_legend=False, **_fed(feed, edit)
        )
        for edit, marker, colour in (("expand", "triangle", GOOD), ("collapse", "inverted_triangle", BAD))
    ]  # fmt: skip
    return hv.Overlay([*lines, bars, *marks]).opts(
        **framed(
            height_px, xlabel=AXIS_LABELS[x], ylabel="score", ylim=(-1.12, 1.12),
            xlim=_limits(boxes) if end is None else (0.0, max(end, 1.0)),
            yticks=[-1, -0.5, 0, 0.5, 1], show_legend=False, **_x_format(x),
        )
    )  # fmt: skip


def feed_scores(feed: Feed, entries: pl.DataFrame, x: Axis = "budget") -> None:
    """Other entries into a `lens_scores` that was drawn with that feed."""
    boxes = _score_boxes(entries, x)
    feed.give(
        bars=of_rectangles(columns(boxes, _BOX)),
        expand=_edit_marks(boxes, "expand"),
        collapse=_edit_marks(boxes, "collapse"),
    )


def _score_boxes(entries: pl.DataFrame, x: Axis) -> pl.DataFrame:
    boxes = _with_gaps(entry_boxes(entries, x)).with_columns(
        y0=pl.min_horizontal(pl.lit(0.0), pl.col("score")), y1=pl.max_horizontal(pl.lit(0.0), pl.col("score"))
    )
    return boxes.with_columns(pl.col("y0", "y1").fill_null(0.0))


def _fed(feed: Feed | None, part: str) -> dict[str, object]:
    return {} if feed is None else {"hooks": [feed.part(part)]}


def _rectangles(boxes: pl.DataFrame, x: Axis) -> hv.Rectangles:
    return hv.Rectangles(columns(boxes, _BOX), ["x0", "y0", "x1", "y1"], _DETAILS)


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


def _edit_marks(boxes: pl.DataFrame, edit: str) -> dict[str, np.ndarray]:
    """Where the marks of one kind of edit stand: beyond the ends of their bars."""
    at = boxes.filter(pl.col("edit") == edit)
    height = at["score"].fill_null(0.0) + (0.07 if edit == "expand" else -0.07)
    return {"x": ((at["x0"] + at["x1"]) / 2).to_numpy(), "score": height.to_numpy()}


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
