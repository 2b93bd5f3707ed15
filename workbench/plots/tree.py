"""The tree, drawn as a pyramid: every level of the history over token position, coloured by a value of its blocks.

The value of a node is the highest among the blocks below it, as a focus step sees it: what shines at the top can be
followed down to the block that it comes from. However long the history is, a level is drawn as at most
`max_columns` columns of the visible range, each the maximum of what falls into it.
"""

from __future__ import annotations

import holoviews as hv
import numpy as np
import polars as pl

from megacontext.errors import ShapeError
from megacontext.spans import complete_counts
from workbench.palette import NEEDED, NEUTRAL, SCALE
from workbench.plots.style import NO_TICKS, TOKENS, framed, numbers

MAX_COLUMNS = 1_200
"""About the pixels that a page is wide."""

LEVEL_HEIGHT = 0.42
"""Half the height of a level's row, in levels; the rest is the gap."""


def pyramid_columns(
    values: np.ndarray,
    num_tokens: int,
    block_size: int,
    start: float,
    stop: float,
    max_columns: int = MAX_COLUMNS,
) -> list[tuple[int, float, float, np.ndarray]]:
    """Rows (lod, first token, end token, values (columns,)) of the levels with complete nodes, from LOD 1 up.

    `values` (blocks,) are those of LOD 1 in order; [start, stop) is the visible range of tokens. Rows end where the
    complete nodes of their level do. Raises ShapeError if there is not one value per complete block.
    """
    counts = complete_counts(num_tokens, block_size)
    blocks = counts[1] if len(counts) > 1 else 0
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (blocks,):
        raise ShapeError(
            f"a pyramid needs one value per complete block, {num_tokens} tokens have {blocks}, got {values.shape}; "
            "pass the scores of one question"
        )
    rows = []
    for lod in range(1, len(counts)):
        width = block_size**lod
        if lod > 1:
            values = values[: counts[lod] * block_size].reshape(-1, block_size).max(axis=1)
        first = int(max(start, 0) // width)
        last = min(int(-(-min(stop, num_tokens) // width)), counts[lod])  # one past
        if last <= first:
            continue
        rows.append(
            (lod, float(first * width), float(last * width), _columns(values[first:last], max_columns))
        )
    return rows


def tree_pyramid(
    block_scores: pl.DataFrame,
    num_tokens: int,
    block_size: int,
    *,
    needed: list[int] | None = None,
    raw: list[int] | None = None,
    limits: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    height_px: int | None = None,
) -> hv.Overlay:
    """The levels of a history, LOD 1 at the bottom, coloured by `score` of its blocks (columns block, score).

    `needed` marks the blocks that hold the answer, `raw` those that the model reads as tokens; `limits` fixes the
    colour scale (default: the middle 98 % of the scores); `x_range` is the visible range of tokens.
    """
    values = block_scores.sort("block")["score"].to_numpy()
    start, stop = x_range or (0.0, float(num_tokens))
    low, high = limits or score_limits(values)
    rows = pyramid_columns(values, num_tokens, block_size, start, stop)
    layers: list[hv.Element] = [
        _row(row, block_size, low, high, bar=place == 0) for place, row in enumerate(rows)
    ]
    layers.append(_marks(raw or [], block_size, 0.35, "square", 4, NEUTRAL, "raw in the context"))
    layers.append(_marks(needed or [], block_size, 0.12, "triangle", 10, NEEDED, "needed block"))
    top = len(complete_counts(num_tokens, block_size)) - 1
    return hv.Overlay(layers).opts(
        **framed(
            height_px or 110 + 64 * max(top, 1), xlabel="token position in the history", ylabel="level",
            yticks=[(lod, f"L{lod}") for lod in range(1, top + 1)] or NO_TICKS, ylim=(-0.1, top + 0.5 if top else 1.5),
            xlim=(start, stop), hooks=[numbers(x=TOKENS)], show_legend=False,
            default_tools=["xpan", "xwheel_zoom", "reset"], active_tools=["xpan", "xwheel_zoom"],
        )
    )  # fmt: skip


def score_limits(values: np.ndarray) -> tuple[float, float]:
    """The middle 98 % of the values, so that a single outlier does not flatten the rest; never empty."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(np.quantile(values, 0.01)), float(values.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _columns(values: np.ndarray, max_columns: int) -> np.ndarray:
    """At most `max_columns` maxima of equal shares of `values`; the values themselves where they are few."""
    if len(values) <= max_columns:
        return values
    edges = np.linspace(0, len(values), max_columns + 1).astype(np.int64)[:-1]
    return np.maximum.reduceat(values, edges)


def _row(
    row: tuple[int, float, float, np.ndarray], block_size: int, low: float, high: float, bar: bool
) -> hv.Image:
    lod, start, stop, values = row
    image = hv.Image(
        values[None, :], ["token", "level"], hv.Dimension("score", label="score"),
        bounds=(start, lod - LEVEL_HEIGHT, stop, lod + LEVEL_HEIGHT),
    )  # fmt: skip
    tooltips = [
        ("level", f"L{lod} · {block_size**lod:,} tokens"),
        ("token", "$x{0,0}"),
        ("highest similarity below", "@image{+0.00}"),
    ]
    return image.opts(
        cmap=SCALE, clim=(low, high), colorbar=bar, clabel="", tools=["hover"], hover_tooltips=tooltips,
        colorbar_opts={"width": 8, "major_label_text_font_size": "11px", "padding": 4} if bar else {},
    )  # fmt: skip


def _marks(
    blocks: list[int], block_size: int, level: float, marker: str, size: int, colour: str, what: str
) -> hv.Points:
    tokens = (np.asarray(blocks, dtype=np.float64) + 0.5) * block_size
    points = {
        "token": tokens,
        "level": np.full(len(tokens), level),
        "block": np.asarray(blocks, dtype=np.int64),
    }
    return hv.Points(points, ["token", "level"], ["block"]).opts(
        marker=marker, size=size, color=colour, line_color=colour, tools=["hover"],
        hover_tooltips=[(what, "@block{0,0}"), ("token", "@token{0,0}")],
    )  # fmt: skip
