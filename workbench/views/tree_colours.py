"""What the tree is coloured by: the choice, the values as they come, the legend, and what there is to say of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui
import polars as pl
from markupsafe import Markup

from megacontext.errors import MegaContextError
from megacontext.spans import Node
from workbench.plots.tree import scale_colours, tree_columns, value_text
from workbench.state import Selection
from workbench.stores import painting
from workbench.stores.colouring import COLOURINGS, OF_A_QUERY, Colouring
from workbench.stores.levels import Levels
from workbench.stores.painting import Pending, Subject
from workbench.text import class_legend, plain, scale_legend, visible
from workbench.views.parts import prose
from workbench.views.tree_node import QUICKLY_S

_CONTROL = {"size": "small", "margin": (4, 8, 4, 0)}


class TreeColours:
    """Controls, legend and note of one tree. `changed` is told when there are other values to be drawn."""

    def __init__(self, selection: Selection, changed: Callable[[], None]):
        self._selection, self._changed = selection, changed
        self._choice = pmui.Select(label="Colour by", options=[], width=250, **_CONTROL)
        self._query = pmui.TextInput(
            label="Query", placeholder="what the colours are about", width=300, visible=False, **_CONTROL
        )
        self.controls: list[pn.viewable.Viewable] = [self._choice, self._query]
        self.legend, self.note = prose("", visible=False), prose("", visible=False)
        self.generation = 0
        """Another number whenever there are other values."""
        self._choice.param.watch(lambda event: self._chosen("colour", event.new), "value")
        self._query.param.watch(lambda event: self._chosen("query", event.new), "value")
        self.forget()

    def forget(self) -> None:
        """Values of another tree colour this one no longer."""
        self.colouring: Colouring | None = None
        """The values that are shown; None while there are none."""
        self._subject: Subject | None = None
        self._pending: Pending | None = None
        self._key: object = None
        self._asked: object = None

    def take(self, subject: Subject) -> None:
        """Colour a tree by what is selected, or by what suits it; show values that were awaited."""
        self._subject = subject
        try:
            offered = painting.offered(subject)
            name = self._selection.colour
            if name not in offered.values():
                name = painting.suiting(subject)
            self._choice.param.update(options=offered, value=name)
            self._query.param.update(visible=name in OF_A_QUERY, value=self._selection.query)
            key, asked = painting.key_of(name, subject), (name, subject.query, subject.question)
            # Values of a shorter history are awaited too: else a fast writer would never let any arrive.
            if key != self._key and not (self._waits and asked == self._asked):
                self._key, self._asked = key, asked
                self._pending = None
                self._show(painting.ask(name, subject, id(self)))
            elif self._pending is not None:
                self._show(self._pending)
        except MegaContextError as error:
            self._show(str(error))

    def cells(self, start: float, stop: float, max_columns: int) -> pl.DataFrame:
        """The visible range, ready to be drawn; the legend follows it."""
        assert self._subject is not None
        shown, size = self.colouring, self._subject.block_size
        found = self.levels.cells(start, stop, max_columns)
        if shown is None:
            return tree_columns(found, size, what="no value")
        self._show_legend(found)
        return tree_columns(found, size, shown.form, shown.limits, _visible(shown.classes), shown.what)

    @property
    def levels(self) -> Levels:
        """The values, or the bare tree."""
        assert self._subject is not None
        return painting.without_values(self._subject) if self.colouring is None else self.colouring.levels

    def value_of(self, node: Node) -> str:
        """What a node is coloured by, in words."""
        shown = self.colouring
        if shown is None:
            return "by nothing yet"
        value = value_text(shown.levels.value(node), shown.form, _visible(shown.classes))
        return value if shown.form == "class" else f"{value} ({shown.what})"

    @property
    def _waits(self) -> bool:
        return self._pending is not None and not self._pending.job.done

    def _show(self, answer: Colouring | Pending | str) -> None:
        if isinstance(answer, Pending):
            job = answer.job
            if not job.wait(QUICKLY_S if self._pending is None else 0):
                self._pending = answer
                share = f", {100 * job.share:.0f} %" if job.share else ""
                self._say(f"{job.what or 'at work'}{share} …")
                return
            answer = job.sentence if job.failed else answer.finish(job.result)
        self._pending = None
        self.generation += 1
        if isinstance(answer, str):
            self.colouring = None
            self.legend.visible = False
            self._say(answer)
        else:
            self.colouring = answer
            self._say(answer.note)
        self._changed()

    def _say(self, note: str) -> None:
        said = str(Markup('<p class="muted" role="status">{}</p>').format(plain(note)))
        if self.note.object != said or self.note.visible != bool(note):
            self.note.param.update(object=said, visible=bool(note))

    def _show_legend(self, cells: pl.DataFrame) -> None:
        shown = self.colouring
        assert shown is not None
        if shown.form == "class":
            seen = cells["value"].drop_nans().unique().sort().to_list()
            said = str(class_legend({int(one): shown.classes.get(int(one), str(int(one))) for one in seen}))
        else:
            low, high = (value_text(limit, shown.form, {}) for limit in shown.limits)
            said = str(scale_legend(scale_colours(shown.form), low, high, shown.what))
        if self.legend.object != said or not self.legend.visible:
            self.legend.param.update(object=said, visible=True)

    def _chosen(self, name: str, value: Any) -> None:
        """A control was moved by hand, or agrees with the selection."""
        unchosen = name == "colour" and self._selection.colour not in COLOURINGS
        if value is None or value == getattr(self._selection, name):
            return
        # The control shows what suits where nothing is chosen, which is no choice.
        if not (unchosen and self._subject is not None and value == painting.suiting(self._subject)):
            self._selection.param.update(**{name: value})


def _visible(classes: dict[int, str]) -> dict[int, str]:
    """Names of documents are text of others."""
    return {number: visible(name[:80]) for number, name in classes.items()}
