"""The tree, drawn: every level of a history over token position, coloured by a value of its nodes.

Cells come from `workbench.stores.levels` (or from any frame of their columns): one a node, or one for many where they
would be thinner than a pixel. Colours stand for values as they are; a cell without a value is a faint grey. The figure
is Bokeh's own: it is fed for hours and drawn before anything else on its page, and HoloViews would add tools and
mappings of colours that had to be taken out of it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, FixedTicker, GlyphRenderer, HoverTool, Range1d
from bokeh.palettes import Magma256
from bokeh.plotting import figure

from workbench.palette import CHOSEN, DIVERGING, MONOSPACE, NEEDED, NEUTRAL, class_colour
from workbench.plots.style import TOKENS, bare_figure, columns

CELL_HEIGHT = 0.42
"""Half the height of a level's row, in levels; the rest is the gap."""
MARKS_AT = (-0.62, -0.78)
"""Where raw and needed blocks are marked, below the tokens' row."""
LEVEL_PX = 46

# The darkest tenth would not stand out from a dark ground.
_SCALE = Magma256[26:]


def scale_colours(form: str) -> list[str]:
    """The colours from the lowest value to the highest."""
    if form != "score":
        return list(_SCALE)
    points = np.array([[int(one[at : at + 2], 16) for at in (1, 3, 5)] for one in DIVERGING], dtype=float)
    places = np.linspace(0, len(points) - 1, 255)
    mixed = [np.interp(places, np.arange(len(points)), points[:, channel]) for channel in range(3)]
    return [f"#{round(r):02X}{round(g):02X}{round(b):02X}" for r, g, b in zip(*mixed, strict=True)]


def colours_of(values: np.ndarray, form: str, limits: tuple[float, float]) -> np.ndarray:
    """A colour per value, as text; the neutral one for nan."""
    known = np.isfinite(values)
    if form == "class":
        numbers_of = np.where(known, values, 0).astype(int)
        kinds, back = np.unique(numbers_of, return_inverse=True)
        found = np.array([class_colour(int(kind)) for kind in kinds], dtype=object)[back]
    else:
        scale = np.array(scale_colours(form), dtype=object)
        low, high = limits
        share = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-12), 0, 1)
        found = scale[np.rint(share * (len(scale) - 1)).astype(int)]
    return np.where(known, found, NEUTRAL)


def value_text(number: float, form: str, classes: Mapping[int, str]) -> str:
    """A value as its colouring writes it; a dash for none."""
    if not np.isfinite(number):
        return "–"
    if form == "class":
        return classes.get(int(number), f"{int(number)}")
    if form == "share":
        return f"{100 * number:.1f} %"
    if form == "minutes":
        return f"{number:,.1f} min"
    return f"{number:.2f}" if form == "plain" else f"{number:+.3f}"


def tree_columns(
    cells: pl.DataFrame,
    block_size: int,
    form: str = "signed",
    limits: tuple[float, float] = (0.0, 1.0),
    classes: Mapping[int, str] | None = None,
    what: str = "value",
) -> pl.DataFrame:
    """Cells (columns lod, first, last, x0, x1, value) with their corners, colour, and the words of their tooltips."""
    values = cells["value"].to_numpy()
    classes = classes or {}
    several = cells["last"] - cells["first"] > 1
    return cells.with_columns(
        y0=pl.col("lod") - CELL_HEIGHT,
        y1=pl.col("lod") + CELL_HEIGHT,
        colour=pl.Series(colours_of(values, form, limits).tolist(), dtype=pl.String),
        alpha=pl.Series(np.where(np.isfinite(values), 1.0, 0.18)),
        node=pl.when(several)
        .then(pl.format("L{} · nodes {} to {}", "lod", "first", pl.col("last") - 1))
        .otherwise(pl.format("L{} · node {}", "lod", "first")),
        tokens=pl.format(
            "{} to {}", pl.col("x0").cast(pl.Int64), pl.col("x1").cast(pl.Int64)
        ),
        shown=pl.Series([value_text(one, form, classes) for one in values], dtype=pl.String),
        what=pl.lit(what),
    )  # fmt: skip


def token_labels(
    first: int, texts: Sequence[str], cells: pl.DataFrame, most_characters: int
) -> dict[str, np.ndarray | list[str]]:
    """Columns x, y, text and ink of tokens from `first` on; `cells` are theirs, as `tree_columns` gives them."""
    shown = [
        text if len(text) <= most_characters else text[: max(most_characters - 1, 1)] + "…" for text in texts
    ]
    known = dict(cells.select("first", "colour").iter_rows())
    pale = dict(cells.select("first", "alpha").iter_rows())
    inks = [_ink(known.get(first + at, NEUTRAL), pale.get(first + at, 0.0) < 1) for at in range(len(texts))]
    places = np.arange(first, first + len(texts)) + 0.5
    return {"x": places, "y": np.zeros(len(texts)), "text": shown, "ink": inks}


@dataclass(frozen=True)
class TreePyramid:
    """The figure and what feeds it."""

    figure: figure
    cells: ColumnDataSource
    """Columns of `cell_columns`."""
    outline: ColumnDataSource
    """Columns of `outline_of`."""
    texts: ColumnDataSource
    """Columns of `token_labels`."""
    raw: ColumnDataSource
    """Columns of `mark_columns`."""
    needed: ColumnDataSource
    """Columns of `mark_columns`."""


def tree_pyramid(
    cells: pl.DataFrame,
    num_tokens: int,
    block_size: int,
    top: int,
    *,
    form: str = "signed",
    limits: tuple[float, float] = (0.0, 1.0),
    classes: Mapping[int, str] | None = None,
    what: str = "value",
    needed: Sequence[int] = (),
    raw: Sequence[int] = (),
    chosen: tuple[int, int] | None = None,
    x_range: tuple[float, float] | None = None,
    height_px: int | None = None,
) -> TreePyramid:
    """The levels of a history up to `top`, single tokens at the bottom, as far as `cells` hold them.

    `needed` marks the blocks that hold the answer, `raw` those that the model reads as tokens, `chosen` outlines a node
    (LOD, index); `x_range` is the visible range of tokens.
    """
    start, stop = x_range or (0.0, float(max(num_tokens, 1)))
    drawn = bare_figure(
        height_px or tree_height_px(top), x_label="token position in the history", y_label="level",
        x_format=TOKENS, y_format="0", x_range=Range1d(start, stop), y_range=Range1d(-1.0, top + 0.55),
        tools="xpan,xwheel_zoom", active_drag="xpan", active_scroll="xwheel_zoom",
    )  # fmt: skip
    drawn.grid.visible = False
    name_levels(drawn, top)
    made = TreePyramid(
        drawn,
        cells=ColumnDataSource(cell_columns(tree_columns(cells, block_size, form, limits, classes, what))),
        outline=ColumnDataSource(outline_of(chosen, block_size)),
        texts=ColumnDataSource({"x": [], "y": [], "text": [], "ink": []}),
        raw=ColumnDataSource(mark_columns(raw, block_size, MARKS_AT[0])),
        needed=ColumnDataSource(mark_columns(needed, block_size, MARKS_AT[1])),
    )
    corners = {"left": "left", "right": "right", "bottom": "bottom", "top": "top"}
    boxes = drawn.quad(
        **corners, fill_color="colour", fill_alpha="fill_alpha", line_alpha=0, source=made.cells
    )
    drawn.quad(**corners, fill_alpha=0, line_color=CHOSEN, line_width=3, source=made.outline)
    drawn.text(
        "x", "y", "text", text_color="ink", text_font=value(MONOSPACE), text_font_size="11px", text_align="center",
        text_baseline="middle", source=made.texts,
    )  # fmt: skip
    marks = [
        (made.raw, "square", 5, NEUTRAL, "read as tokens: block"),
        (made.needed, "triangle", 10, NEEDED, "holds the answer: block"),
    ]
    told = [("node", "@node"), ("tokens", "@tokens"), ("value", "@shown"), ("", "@what")]
    drawn.add_tools(_hover(boxes, told))
    for source, marker, size, colour, words in marks:
        marked = drawn.scatter("x", "y", marker=marker, size=size, color=colour, source=source)
        drawn.add_tools(_hover(marked, [(words, "@block{0,0}"), ("token", "@x{0,0}")]))
    return made


def name_levels(pyramid: figure, top: int) -> None:
    """Names on the axis of levels, from the tokens' up to `top`."""
    pyramid.yaxis.ticker = FixedTicker(ticks=list(range(top + 1)))
    pyramid.yaxis.major_label_overrides = {lod: f"L{lod}" for lod in range(top + 1)}


def cell_columns(drawn: pl.DataFrame) -> dict[str, np.ndarray | list[str]]:
    """Columns of cells, from a frame of `tree_columns`: arrays travel as bytes, texts as lists."""
    places = {"left": "x0", "right": "x1", "bottom": "y0", "top": "y1", "fill_alpha": "alpha"}
    words = ("colour", "node", "tokens", "shown", "what")
    return columns(drawn.rename({old: new for new, old in places.items()}), list(places)) | {
        name: drawn[name].to_list() for name in words
    }


def tree_height_px(top: int) -> int:
    """Room for that many levels and the tokens below them."""
    return 100 + LEVEL_PX * (top + 1)


def outline_of(node: tuple[int, int] | None, block_size: int) -> dict[str, list[float]]:
    """Edges of a node's cell; none for no node."""
    if node is None:
        return {"left": [], "right": [], "bottom": [], "top": []}
    lod, index = node
    width = block_size**lod
    return {
        "left": [float(index * width)], "right": [float((index + 1) * width)], "bottom": [lod - CELL_HEIGHT],
        "top": [lod + CELL_HEIGHT],
    }  # fmt: skip


def mark_columns(blocks: Sequence[int], block_size: int, level: float) -> dict[str, np.ndarray]:
    """Places of marks in the middle of blocks."""
    numbers_of = np.asarray(blocks, dtype=np.int64)
    return {
        "x": (numbers_of + 0.5) * block_size, "y": np.full(len(numbers_of), level), "block": numbers_of,
    }  # fmt: skip


def _hover(renderer: GlyphRenderer, told: list[tuple[str, str]]) -> HoverTool:
    return HoverTool(renderers=[renderer], tooltips=told)


def _ink(ground: str, faint: bool) -> str:
    """Black or white, whichever reads better on a ground; grey on a faint one, which may be dark or light."""
    if faint:
        return NEUTRAL
    red, green, blue = (int(ground[at : at + 2], 16) for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#FFFFFF"
