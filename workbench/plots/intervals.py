"""Means with their intervals, a row each, in groups: arms of one cell under one another, cells below one another.

The frame has the columns label (the group), series (the row), mean, low, high and n; an interval that is not known is
not drawn. Rows come in the order of the frame.
"""

from __future__ import annotations

from collections.abc import Mapping

import holoviews as hv
import polars as pl

from workbench.palette import ARMS, NEUTRAL, SERIES, arm_colour
from workbench.plots.style import NO_TICKS, columns, framed

ROW_PX, HEAD_PX = 21, 30


def intervals(
    frame: pl.DataFrame, axis: str, colours: Mapping[str, str] | None = None, height_px: int | None = None
) -> hv.Overlay:
    """Dots at the means, whiskers over 95 %, a line at 0; the name of each group above its rows.

    `colours` are those of the series by their names; without them, those of `series_colours`.
    """
    placed, heads, bottom = _placed(frame)
    colours = colours or series_colours(frame["series"].to_list())
    placed = placed.with_columns(
        colour=pl.Series([colours[name] for name in placed["series"]], dtype=pl.String)
    )
    known = placed.filter(pl.col("low").is_not_null() & pl.col("high").is_not_null())
    low, high = _limits(placed)
    whiskers = hv.Segments(
        columns(known, ["low", "place", "high", "colour"]) | {"same": known["place"].to_numpy()},
        ["low", "place", "high", "same"], ["colour"],
    ).opts(color="colour", line_width=2.5, alpha=0.75)  # fmt: skip
    details = ["label", "series", "low", "high", "n", "colour"]
    dots = hv.Points(columns(placed, ["mean", "place", *details]), ["mean", "place"], details).opts(
        color="colour", line_color="colour", size=8, tools=["hover"],
        hover_tooltips=[("", "@label"), ("arm", "@series"), (axis, "@mean{+0.0000}"),
                        ("95 %", "@low{+0.0000} to @high{+0.0000}"), ("n", "@n{0,0}")],
    )  # fmt: skip
    names = hv.Labels(
        {"x": [low] * len(heads), "y": [place for place, _ in heads], "text": [name for _, name in heads]},
        ["x", "y"], "text",
    ).opts(text_color=NEUTRAL, text_align="left", text_font_size="11px", text_font_style="bold")  # fmt: skip
    zero = hv.VLine(0.0).opts(color=NEUTRAL, line_width=1, line_dash="dashed")
    return (zero * whiskers * dots * names).opts(
        **framed(
            height_px or 62 + ROW_PX * len(placed) + HEAD_PX * len(heads), xlabel=axis, ylabel="",
            xlim=(low, high), ylim=(bottom - 0.8, 0.8), show_legend=False, show_grid=True,
            yticks=list(zip(placed["place"].to_list(), placed["series"].to_list(), strict=True)) or NO_TICKS,
            gridstyle={"ygrid_line_alpha": 0}, hooks=[_room_for_names],
        )
    )  # fmt: skip


def series_colours(names: list[str]) -> dict[str, str]:
    """A colour a name: that of an arm where it is one, else the next of the series."""
    others = [name for name in dict.fromkeys(names) if name not in ARMS]
    return {name: arm_colour(name) for name in names if name in ARMS} | {
        name: SERIES[place % len(SERIES)] for place, name in enumerate(others)
    }


def _placed(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[tuple[float, str]], float]:
    """Rows with their places, downwards from 0; places and names of the groups' heads; the lowest place."""
    head_rows, places, heads = HEAD_PX / ROW_PX, [], []
    place, before = 0.0, None
    for label in frame["label"]:
        if label != before:
            heads.append((place, str(label)))
            place -= head_rows
            before = label
        places.append(place)
        place -= 1
    return frame.with_columns(place=pl.Series(places, dtype=pl.Float64)), heads, place + 1


def _limits(frame: pl.DataFrame) -> tuple[float, float]:
    ends = [value for name in ("mean", "low", "high") for value in frame[name].drop_nulls().drop_nans()]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _room_for_names(plot: object, element: hv.Element) -> None:
    plot.state.min_border_left = 118
