"""Results, drawn: accuracy of each arm with its interval, and accuracy over the place of the fact.

Frames have the columns of results.json (`rows`, `depth`). Intervals are drawn as they come; where none are given, a
bar stands without. Deliberately ignorant of how they were computed.
"""

from __future__ import annotations

import holoviews as hv
import polars as pl

from workbench.palette import arm_colour, arm_marker, arm_order
from workbench.plots.style import NO_TICKS, columns, framed, numbers

PERCENT = "0%"


def accuracy_bars(rows: pl.DataFrame, height_px: int | None = None) -> hv.Overlay:
    """One arm a line, floor at the bottom: bar, dot at the accuracy, whisker over its 95 % interval."""
    arms = arm_order(rows["arm"].to_list())
    places = {arm: place for place, arm in enumerate(arms)}
    frame = rows.with_columns(
        place=pl.Series([places[arm] for arm in rows["arm"]], dtype=pl.Float64),
        colour=pl.Series([arm_colour(arm) for arm in rows["arm"]], dtype=pl.String),
        low=pl.col("low").cast(pl.Float64),
        high=pl.col("high").cast(pl.Float64),
        zero=pl.lit(0.0),
    ).with_columns(y0=pl.col("place") - 0.3, y1=pl.col("place") + 0.3)
    details = ["arm", "n", "low", "high", "colour"]
    bars = hv.Rectangles(
        columns(frame, ["zero", "y0", "accuracy", "y1", *details]), ["zero", "y0", "accuracy", "y1"], details
    ).opts(
        color="colour", line_alpha=0, fill_alpha=0.28, tools=["hover"],
        hover_tooltips=[("arm", "@arm"), ("accuracy", "@accuracy{0.0%}"),
                        ("95 % interval", "@low{0.0%} to @high{0.0%}"), ("questions", "@n{0,0}")],
    )  # fmt: skip
    ranged = frame.filter(pl.col("low").is_not_null() & pl.col("high").is_not_null())
    whiskers = hv.Segments(
        columns(ranged, ["low", "place", "high", "colour"]) | {"same": ranged["place"].to_numpy()},
        ["low", "place", "high", "same"], ["colour"],
    ).opts(color="colour", line_width=3)  # fmt: skip
    dots = hv.Points(columns(frame, ["accuracy", "place", "colour"]), ["accuracy", "place"], ["colour"]).opts(
        color="colour", line_color="colour", size=9
    )
    return (bars * whiskers * dots).opts(
        **framed(
            height_px or 64 + 34 * max(len(arms), 1), xlabel="share of questions answered exactly", ylabel="",
            xlim=(0, 1.02), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1],
            yticks=[(place, arm) for arm, place in places.items()] or NO_TICKS, ylim=(-0.6, max(len(arms), 1) - 0.4),
            hooks=[_wide_labels, numbers(x=PERCENT)], gridstyle={"ygrid_line_alpha": 0}, show_grid=True,
        )
    )  # fmt: skip


def accuracy_by_depth(depth: pl.DataFrame, height_px: int = 300) -> hv.Overlay:
    """Accuracy over the place of the needed fact (0 = oldest end of the history, 1 = newest), a line per arm.

    `workbench.text.arm_legend` says which colour is which arm.
    """
    frame = depth.with_columns(
        depth=(pl.col("depth_low") + pl.col("depth_high")) / 2,
        colour=pl.Series([arm_colour(arm) for arm in depth["arm"]], dtype=pl.String),
        marker=pl.Series([arm_marker(arm) for arm in depth["arm"]], dtype=pl.String),
        # The arms that the page is about stand out; the rest is context.
        width=pl.when(pl.col("arm").is_in(["lensnet", "lensnet+bm25"])).then(3.0).otherwise(1.5),
    ).sort("arm", "depth")
    # Segments between neighbours instead of a curve per arm: two elements for any number of arms.
    nexts = frame.with_columns(
        depth_next=pl.col("depth").shift(-1).over("arm"),
        accuracy_next=pl.col("accuracy").shift(-1).over("arm"),
    ).filter(pl.col("depth_next").is_not_null())
    ends = ["depth", "accuracy", "depth_next", "accuracy_next"]
    lines = hv.Segments(columns(nexts, [*ends, "colour", "width"]), ends, ["colour", "width"]).opts(
        color="colour", line_width="width"
    )
    details = ["arm", "n", "depth_low", "depth_high", "colour", "marker"]
    dots = hv.Points(columns(frame, ["depth", "accuracy", *details]), ["depth", "accuracy"], details).opts(
        color="colour", line_color="colour", marker="marker", size=8, tools=["hover"],
        hover_tooltips=[("arm", "@arm"), ("accuracy", "@accuracy{0.0%}"),
                        ("depth", "@depth_low{0.0} to @depth_high{0.0}"), ("questions", "@n{0,0}")],
    )  # fmt: skip
    return (lines * dots).opts(
        **framed(
            height_px, xlabel="place of the fact (0 = oldest, 1 = newest)", ylabel="accuracy", xlim=(0, 1),
            ylim=(-0.04, 1.04), hooks=[numbers(y=PERCENT)], yticks=[0, 0.25, 0.5, 0.75, 1], show_grid=True,
            xticks=[0, 0.2, 0.4, 0.6, 0.8, 1],
        )
    )  # fmt: skip


def _wide_labels(plot: object, element: hv.Element) -> None:
    """Arms have longer names than numbers."""
    plot.state.min_border_left = 124
