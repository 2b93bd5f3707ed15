"""What is in this memory, and where?

All levels of a history over token position, from ten million tokens to single ones, coloured by what is chosen; the
node that is clicked, in words; and where a text stands. Without a memory, the tree of a traced question is shown alone.
"""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui
import polars as pl

from megacontext.errors import MegaContextError
from megacontext.spans import Node, node_span
from workbench.desk import Desk
from workbench.palette import NEUTRAL
from workbench.plots.tree import token_labels
from workbench.state import query_of
from workbench.stores.memory import MemoryStore
from workbench.stores.nodes import exists, parse_node, parse_span, text_of
from workbench.stores.painting import Subject
from workbench.text import count, plain, visible
from workbench.turns import in_turn
from workbench.views.asked import final_raw_blocks, question_line
from workbench.views.components import ColumnKeys
from workbench.views.parts import card, empty, heading, problem, prose, side_by_side, stack
from workbench.views.tree_colours import TreeColours
from workbench.views.tree_figure import LEAST_TOKENS, TreeFigure
from workbench.views.tree_node import QUICKLY_S, FindPanel, NodePanel

TEXT_PX = 16
"""A token narrower than that is shown without its text."""
_CHARACTER_PX = 7
_ROOM = 6
"""A node that is jumped to takes a sixth of the width."""
_LEAST_SHARE = 1 / 150
"""Of the width that a node must take to be seen without zooming."""
KEYS_SAID = (
    "← → move to a neighbour, ↑ ↓ to what contains it and what it is made of, + − zoom, Home shows all"
)

FOCUS_CSS = """
:host { border-radius: 6px; outline: none; }
:host(:focus-visible) { outline: 2px solid var(--panel-primary-color); outline-offset: 2px; }
"""


class TreeView:
    """The tree of the memory on the desk."""

    needs = ""

    def __init__(self, desk: Desk):
        self.desk, self.selection = desk, desk.selection
        self._subject: Subject | None = None
        self._taken = False
        self._sentence = ""
        self._cells = pl.DataFrame()
        self._span_told: str | None = None
        self._range_told = (0.0, 0.0)
        self._tree_of: object = None
        self._drawn: object = None
        self._marks_key: object = None
        self._make_parts()
        self.refresh()

    # Parts ---------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        self._figure = TreeFigure(self._draw, self._tapped)
        self._colours = TreeColours(self.selection, self._draw)
        see_all = pmui.Button(
            label="See all", variant="outlined", size="small", margin=(4, 8, 4, 0),
            on_click=lambda _: in_turn(self._see_all),
        )  # fmt: skip
        self._head, self._question, self._trouble = prose(""), prose(""), prose("", visible=False)
        self._node = NodePanel(self._jumped, self._href, KEYS_SAID)
        self._find = FindPanel(self._look_for, self._jumped, self._href)
        keys = ColumnKeys(self._pressed, label=f"The tree of the memory. {KEYS_SAID}.")
        self._frame = pn.Column(keys, sizing_mode="stretch_width", margin=0, stylesheets=[FOCUS_CSS])
        controls = pn.FlexBox(
            *self._colours.controls, see_all, margin=0, align_items="center", sizing_mode="stretch_width"
        )
        self._tree_card = card(
            "", "", self._head, controls, self._colours.legend, self._frame, self._colours.note
        )
        self._tree_card.pop(0)
        self._question_card = card("Question", "", self._question)
        self._empty = card("Tree", "", prose(""))
        self._body = stack(
            self._empty, self._trouble, self._tree_card, side_by_side(self._node.card, self._find.card),
            self._question_card,
        )  # fmt: skip

    def panel(self) -> pn.viewable.Viewable:
        return self._body

    # Following -----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        memory = self._memory()
        self._subject = self._subject_of(memory)
        self._forget_another()
        self._show_what_is_there(memory)
        if self._subject is None:
            return
        self._take_span()
        self._take_colours()
        self._show_below(memory)

    def tick(self) -> None:
        """Follow the memory, show what has come, and put the visible range into the address once it stands still."""
        memory = self._memory()
        subject = self._subject_of(memory)
        if subject != self._subject:
            self.refresh()
        elif subject is not None:
            self._take_colours()
            self._show_below(memory)
        self._tell_span()
        # Behind the words: a page lays them out without it first. And last: what would change in a figure that is on
        # its way would overtake it.
        if self._figure.pane not in self._frame:
            self._frame.insert(0, self._figure.pane)

    def _forget_another(self) -> None:
        """Values of another tree colour this one no longer."""
        subject = self._subject
        tree = None if subject is None else (id(subject.memory), subject.history)
        if tree != self._tree_of:
            self._tree_of = tree
            self._taken = False
            self._colours.forget()
            self._marks_key = None
            self._node.forget()
            self._find.forget()

    def _memory(self) -> MemoryStore | None:
        """The memory on the desk. What keeps it from being opened is told in the page, and goes when it is over."""
        try:
            memory, sentence = self.desk.memory(), ""
        except MegaContextError as error:
            memory, sentence = None, str(error)
        self._tell(sentence)
        return memory

    def _tell(self, sentence: str) -> None:
        if sentence != self._sentence:
            self._sentence = sentence
            self._trouble.param.update(object=str(problem(sentence)), visible=bool(sentence))

    def _subject_of(self, memory: MemoryStore | None) -> Subject | None:
        run, chosen = self.desk.run, self.selection
        try:
            of_the_run = memory is None or bool(self.desk.history_of_memory)
            history = (self.desk.history_of_memory or chosen.history) if of_the_run else ""
            asking = run if run is not None and history in run.histories() else None
            if memory is not None:
                num_tokens, size = memory.num_tokens, memory.block_size
            elif asking is not None and asking.block_size:
                # Blocks may have come since the question was asked: what was scored is drawn.
                num_tokens, size = asking.num_tokens(history), asking.block_size
            else:
                return None
        except MegaContextError as error:
            self._tell(str(error))
            return None
        known = (
            (history, chosen.question, chosen.arm, chosen.step) if asking is not None else ("", -1, "", -1)
        )
        return Subject(num_tokens, size, memory, asking, *known, chosen.query)

    def _show_what_is_there(self, memory: MemoryStore | None) -> None:
        subject = self._subject
        self._empty.visible = subject is None and not self._sentence
        self._tree_card.visible = subject is not None
        self._node.card.visible = self._find.card.visible = subject is not None and memory is not None
        self._question_card.visible = subject is not None and subject.run is not None
        if subject is None:
            self._empty[1].object = str(self._nothing())
            return
        if subject.run is not None:
            self._question.object = str(question_line(subject.run, subject.history, subject.question))
        name = self.desk.memory_name if memory is not None else f"{self.selection.run}/{subject.history}"
        said = f"{count(subject.num_tokens)} tokens, {count(subject.num_tokens // subject.block_size)} blocks"
        if memory is not None:
            number = len(memory.memory.documents)
            said += f", {count(number) if number else 'no'} document{'' if number == 1 else 's'}"
        self._head.object = str(heading("Tree", plain(f"{name}: {said}", 200)))
        top = 0
        while subject.num_tokens >= subject.block_size ** (top + 1):
            top += 1
        grown = self._figure.shows_all
        self._figure.shape(subject.num_tokens, subject.block_size, max(top, 1))
        if grown:
            self._see_all()
        self._show_marks(subject)

    def _nothing(self) -> Any:
        if self.desk.run is not None:
            return empty("No history yet", "Histories appear as soon as the run stores the first tokens.")
        return empty(
            "No memory here",
            "Choose a run, or open one with `megacontext workbench MEMORY`; `megacontext memory ingest` makes one.",
        )

    def _show_marks(self, subject: Subject) -> None:
        run = subject.run
        if run is None:
            return self._figure.feed_marks([], [])
        key = (
            subject.history,
            subject.question,
            subject.arm,
            len(run.frame("entry")),
            len(run.frame("answer")),
        )
        if key == self._marks_key:
            return None
        self._marks_key = key
        needed = [
            token // subject.block_size for token in run.needed_tokens(subject.history, subject.question)
        ]
        raw = final_raw_blocks(run.entries(subject.history, subject.arm, subject.question))
        return self._figure.feed_marks(raw, needed)

    def _take_colours(self) -> None:
        assert self._subject is not None
        self._taken = True
        self._colours.take(self._subject)
        # Nothing new to colour by, but the tree may have grown.
        self._draw()

    # Drawing -------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        """Cells and texts of the visible range."""
        subject = self._subject
        now = (self._colours.generation, subject, self._figure.span, self._figure.columns)
        if subject is None or not self._taken or now == self._drawn:
            return
        self._drawn = now
        self._cells = self._colours.cells(*self._figure.span, self._figure.columns)
        self._figure.feed_cells(self._cells)
        self._draw_texts(self._cells)

    def _draw_texts(self, drawn: pl.DataFrame) -> None:
        width_px = self._figure.token_px
        tokens = drawn.filter(pl.col("lod") == 0)
        start, stop = self._figure.span
        hint = "" if len(tokens) else "single tokens appear here when you zoom in"
        nothing = {"x": [(start + stop) / 2], "y": [0.0], "text": [hint], "ink": [NEUTRAL]}
        memory = self._memory() if width_px >= TEXT_PX and len(tokens) else None
        if memory is None:
            return self._figure.feed_texts(nothing)
        vocabulary = memory.vocabulary()
        if not vocabulary.wait(QUICKLY_S) or vocabulary.failed:
            return self._figure.feed_texts(nothing)
        first, last = int(tokens["first"][0]), int(tokens["last"][-1])
        try:
            ids = memory.memory.tokens(first, min(last, memory.num_tokens))
        except MegaContextError as error:
            return self._tell(str(error))
        texts = [
            visible(text_of(vocabulary.result, [one])).replace("\n", "⏎").replace("\t", "⇥") for one in ids
        ]
        most = max(int(width_px / _CHARACTER_PX), 1)
        return self._figure.feed_texts(token_labels(first, texts, tokens, most))

    # The visible range ---------------------------------------------------------------------------------------------

    def _take_span(self) -> None:
        """Look where the selection says, unless it says what this view has put there itself."""
        if self.selection.span == self._span_told:
            return
        self._span_told = self.selection.span
        span = parse_span(self.selection.span)
        assert self._subject is not None
        if span is None or span.start >= self._subject.num_tokens:
            self._figure.see_all()
        else:
            self._figure.look(*span)

    def _tell_span(self) -> None:
        if self._subject is None:
            return
        now = self._figure.span
        moving, self._range_told = now != self._range_told, now
        if moving:
            return
        start, stop = max(int(now[0]), 0), min(round(now[1]), self._subject.num_tokens)
        told = "" if self._figure.shows_all else f"{start}-{max(stop, start + 1)}"
        if told != self._span_told:
            self._span_told = told
            self.selection.span = told

    def _see_all(self) -> None:
        self._figure.see_all()

    def _zoom(self, factor: float) -> None:
        subject = self._subject
        assert subject is not None
        start, stop = self._figure.span
        node = parse_node(self.selection.node)
        middle = (start + stop) / 2
        if node is not None and start <= (own := sum(node_span(node, subject.block_size)) / 2) <= stop:
            middle = own
        width = max((stop - start) * factor, LEAST_TOKENS)
        self._look_around(middle, width)

    def _look_around(self, middle: float, width: float) -> None:
        assert self._subject is not None
        width = min(width, self._subject.num_tokens)
        start = min(max(middle - width / 2, 0), self._subject.num_tokens - width)
        self._figure.look(round(start), round(start + width))

    # The chosen node -----------------------------------------------------------------------------------------------

    def _tapped(self, token: float, level: float) -> None:
        subject = self._subject
        if subject is None or not 0 <= token < subject.num_tokens:
            return
        lod = round(level)
        cell = self._cells.filter((pl.col("lod") == lod) & (pl.col("x0") <= token) & (pl.col("x1") > token))
        if cell.is_empty():
            return
        first, last = int(cell["first"][0]), int(cell["last"][0])
        node = self._colours.levels.strongest(lod, first, last)
        self.selection.node = f"{node.lod}:{node.index}"

    def _jumped(self, where: str) -> None:
        node = parse_node(where)
        if node is not None and self._subject is not None:
            self._select(node)

    def _select(self, node: Node) -> None:
        """Select a node, and bring it into sight if it is not."""
        subject = self._subject
        assert subject is not None
        if not exists(node, subject.num_tokens, subject.block_size):
            return
        start, stop = node_span(node, subject.block_size)
        low, high = self._figure.span
        seen = max(min(stop, high) - max(start, low), 0) / max(high - low, 1)
        if seen < _LEAST_SHARE or (start < low and stop > high):
            room = (stop - start) * _ROOM if node.lod else subject.block_size
            self._look_around((start + stop) / 2, max(room, subject.block_size))
        self.selection.node = f"{node.lod}:{node.index}"

    def _pressed(self, key: str) -> None:
        subject = self._subject
        if subject is None:
            return
        if key == "Home":
            return self._see_all()
        if key in "+-":
            return self._zoom(0.5 if key == "+" else 2.0)
        if key == "Escape":
            self.selection.node = ""
            return None
        node = parse_node(self.selection.node)
        size = subject.block_size
        if node is None or not exists(node, subject.num_tokens, size):
            lod = int(self._cells["lod"].max() or 1) if len(self._cells) else 1
            return self._select(Node(lod, int(max(self._figure.span[0], 0) // size**lod)))
        moved = {
            "ArrowLeft": Node(node.lod, node.index - 1),
            "ArrowRight": Node(node.lod, node.index + 1),
            "ArrowUp": Node(node.lod + 1, node.index // size),
            "ArrowDown": Node(node.lod - 1, node.index * size) if node.lod else node,
        }
        return self._select(moved[key])

    def _show_below(self, memory: MemoryStore | None) -> None:
        """The cards below the tree, and the outline in it."""
        subject, node = self._subject, parse_node(self.selection.node)
        if subject is None:
            return
        there = node is not None and exists(node, subject.num_tokens, subject.block_size)
        self._figure.feed_outline(tuple(node) if there and node is not None else None)
        if memory is not None:
            self._node.show(memory, subject, node, self._colours.value_of(node) if node is not None else "")
            self._find.show(memory, self.selection.text)

    def _href(self, node: Node) -> str:
        chosen = {name: getattr(self.selection, name) for name in self.selection.KEYS}
        subject = self._subject
        assert subject is not None
        start, stop = node_span(node, subject.block_size)
        room = (stop - start) * (_ROOM - 1) // 2 if node.lod else subject.block_size // 2
        span = f"{max(start - room, 0)}-{stop + room}"
        return query_of(chosen | {"node": f"{node.lod}:{node.index}", "span": span, "view": "tree"})

    def _look_for(self, text: str) -> None:
        if text != self.selection.text:
            self.selection.text = text
