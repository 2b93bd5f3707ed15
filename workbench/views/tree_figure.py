"""The figure of a tree: made once, and fed through its data sources ever after.

A figure that is drawn anew forgets clicks, drags and the zoom that are on their way, which is what happens on a memory
that is being written. So nothing here is ever replaced: cells, outline, texts and marks are columns that change, and
a history that grows moves an axis. Deliberately ignorant of what is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import panel as pn
import polars as pl
from bokeh.events import DoubleTap, Tap

from workbench import plots
from workbench.plots.style import TOKENS
from workbench.plots.tree import MARKS_AT, cell_columns, mark_columns, name_levels, outline_of, tree_height_px
from workbench.stores.levels import CELL_COLUMNS, MAX_COLUMNS
from workbench.turns import in_one_go

LEAST_TOKENS = 8
"""Nobody needs to zoom in further."""
_SAME_PX = 3
"""Two quick clicks nearer than that are a double click."""
_SHORT_FROM_TOKENS = 12_000
"""A longer range counts its tokens in thousands and millions."""
_PAUSE_MS = 25
"""Between two drawings of a range that moves, at the least: wheels turn faster than anybody sees."""


class TreeFigure:
    """Tells `moved` when the visible range has changed, and `tapped` (token, level) of clicks.

    A double click shows the whole history.
    """

    def __init__(
        self,
        moved: Callable[[], None],
        tapped: Callable[[float, float], None],
    ):
        self._moved = moved
        self._waiting, self._took_ms = False, 0.0
        self._width_px = 900
        self._outlined: dict[str, list[float]] = {}
        self._block_size, self._num_tokens, self._top = 0, 0, -1
        cells = pl.DataFrame(schema=CELL_COLUMNS)
        drawn = plots.tree_pyramid(cells, 1, 2, 1)
        self.figure, self._cells, self._outline, self._texts = (
            drawn.figure,
            drawn.cells,
            drawn.outline,
            drawn.texts,
        )
        self._raw, self._needed = drawn.raw, drawn.needed
        self.figure.x_range.min_interval = LEAST_TOKENS
        self.figure.x_range.on_change("start", self._changed)
        self.figure.x_range.on_change("end", self._changed)
        self.figure.on_change("inner_width", self._widened)
        self._tapped, self._tapped_at = tapped, (-1e9, -1e9)
        self.figure.on_event(Tap, self._click)
        self.figure.on_event(DoubleTap, self._click)
        self.pane = pn.pane.Bokeh(self.figure, sizing_mode="stretch_width", margin=0)

    @property
    def span(self) -> tuple[float, float]:
        """Tokens in sight."""
        return float(self.figure.x_range.start), float(self.figure.x_range.end)

    @property
    def token_px(self) -> float:
        """How wide a token is drawn, as far as the browser has told."""
        start, stop = self.span
        return self._width_px / max(stop - start, 1e-9)

    def shape(self, num_tokens: int, block_size: int, top: int) -> None:
        """The history has that length and that many levels."""
        self._block_size = block_size
        if num_tokens != self._num_tokens:
            self._num_tokens = num_tokens
            self.figure.x_range.bounds = (0, max(num_tokens, LEAST_TOKENS))
        if top != self._top:
            self._top = top
            self.figure.y_range.update(start=-1.0, end=top + 0.55)
            name_levels(self.figure, top)
            self.figure.height = tree_height_px(top)

    @property
    def columns(self) -> int:
        """How many cells of a level can be told apart."""
        return min(self._width_px, MAX_COLUMNS)

    @property
    def shows_all(self) -> bool:
        """Whether the whole history is in sight."""
        start, stop = self.span
        return self._num_tokens > 0 and start <= 0 and stop >= self._num_tokens

    def see_all(self) -> None:
        """Bring the whole history into sight."""
        self.look(0, max(self._num_tokens, LEAST_TOKENS))

    def look(self, start: float, stop: float) -> None:
        """Bring tokens [start, stop) into sight."""
        self.figure.x_range.update(start=float(start), end=float(max(stop, start + LEAST_TOKENS)))

    def feed_cells(self, drawn: pl.DataFrame) -> None:
        """Cells as `plots.tree_columns` gives them."""
        start, stop = self.span
        pattern = TOKENS if stop - start > _SHORT_FROM_TOKENS else "0,0"
        if self.figure.xaxis[0].formatter.format != pattern:
            self.figure.xaxis[0].formatter.format = pattern
        self._cells.data = cell_columns(drawn)

    def feed_outline(self, node: tuple[int, int] | None) -> None:
        """Outline a node, or none."""
        fed = outline_of(node, self._block_size)
        if fed != self._outlined:
            self._outlined = self._outline.data = fed

    def feed_texts(self, texts: Mapping[str, Any]) -> None:
        """Texts of single tokens: columns x, y, text, ink."""
        if len(texts["x"]) or len(self._texts.data["x"]):
            self._texts.data = {name: list(column) for name, column in texts.items()}

    def feed_marks(self, raw: Sequence[int], needed: Sequence[int]) -> None:
        """Mark blocks that are read as tokens, and blocks that hold the answer."""
        for source, blocks, level in ((self._raw, raw, MARKS_AT[0]), (self._needed, needed, MARKS_AT[1])):
            if list(source.data["block"]) != list(blocks):
                source.data = mark_columns(blocks, self._block_size, level)

    def _click(self, event: Tap | DoubleTap) -> None:
        """The second of two quick clicks comes as a double one, wherever it is: it is a click too, every time."""
        place = event.sx, event.sy
        same = max(abs(now - before) for now, before in zip(place, self._tapped_at, strict=True)) <= _SAME_PX
        self._tapped_at = place
        if same and isinstance(event, DoubleTap):
            self.see_all()
        else:
            self._tapped(event.x, event.y)

    def _widened(self, attribute: str, old: int, new: int) -> None:
        self._width_px = max(new, 1)
        self._changed(attribute, old, new)

    def _changed(self, attribute: str, old: float, new: float) -> None:
        document = self.figure.document
        if document is None or document.session_context is None:
            self._moved()
        elif not self._waiting:
            self._waiting = True
            document.add_timeout_callback(self._draw, max(_PAUSE_MS, int(self._took_ms)))

    def _draw(self) -> None:
        self._waiting = False
        began = time.perf_counter()
        with in_one_go():
            self._moved()
        self._took_ms = (time.perf_counter() - began) * 1000
