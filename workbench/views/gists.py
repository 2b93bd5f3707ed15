"""What do gists lie near to?

A sample of one level, laid out by what its gists differ in most; a click on a dot shows the node in the tree.
"""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui
from bokeh.models import ColumnDataSource
from markupsafe import Markup

from megacontext.errors import MegaContextError
from workbench import plots
from workbench.desk import Desk
from workbench.plots.style import drawn
from workbench.plots.tree import scale_colours
from workbench.stores.background import Job
from workbench.stores.memory import MemoryStore
from workbench.stores.nodes import parse_node
from workbench.stores.projection import ADDRESSES, GISTS, Projection, has_umap, levels_of, project, sources
from workbench.text import class_legend, count, plain, scale_legend, visible
from workbench.turns import in_turn
from workbench.views.parts import card, empty, problem, prose, stack

_BY = {"Document": "document", "Place in the history": "place"}
_HOW = {"Principal components": "pca", "UMAP": "umap"}


class GistsView:
    """The gists of the memory on the desk."""

    needs = "memory"

    def __init__(self, desk: Desk):
        self.desk, self.selection = desk, desk.selection
        self._job: Job[Projection] | None = None
        self._shown: Projection | None = None
        self._asked: object = None
        self._drawn_by, self._undrawn = "", False
        self._ring: ColumnDataSource | None = None
        self._laid_tokens = 0
        self._make_parts()
        self.refresh()

    def _make_parts(self) -> None:
        control = {"size": "small", "margin": (4, 8, 4, 0), "width": 210}
        self._source = pmui.Select(label="Of", options={}, **control)
        self._level = pmui.Select(label="Level", options={}, **control)
        self._by = pmui.Select(label="Colour by", options=_BY, value="document", **control)
        how = _HOW if has_umap() else {"Principal components": "pca"}
        self._how = pmui.Select(
            label="Laid out by", options=how, value="pca", visible=len(how) > 1, **control
        )
        self._legend, self._note, self._said = prose(""), prose(""), prose("")
        self._plot = pn.pane.Bokeh(None, sizing_mode="stretch_width", margin=0)
        controls = pn.FlexBox(
            self._source, self._level, self._by, self._how, margin=0, sizing_mode="stretch_width"
        )
        self._level.param.watch(self._level_chosen, "value")
        self._source.param.watch(lambda event: in_turn(self.refresh), "value")
        self._how.param.watch(self._layout_chosen, "value")
        self._by.param.watch(self._colour_chosen, "value")
        subtitle = (
            "Dots that lie together have like gists. Hover for the text, click to see the node in the tree."
        )
        self._body = stack(
            card("Gists", subtitle, self._said, controls, self._legend, self._plot, self._note)
        )

    def panel(self) -> pn.viewable.Viewable:
        return self._body

    def refresh(self) -> None:
        try:
            memory = self.desk.memory()
            if memory is None:
                return
            self._offer(memory)
        except MegaContextError as error:
            self._job = None
            self._tell(str(problem(str(error))))
            return
        self._by.value = self._colour
        if self._shown is not None and self._drawn_by != self._colour:
            self._say(self._shown)
            self._draw()
        self._show_ring()
        self.tick()

    @property
    def _layout(self) -> str:
        chosen = self.selection.layout
        return chosen if chosen in self._how.options.values() else "pca"

    @property
    def _colour(self) -> str:
        """What is coloured by; where no dot is of a document, all would be grey."""
        shown = self._shown
        if shown is not None and shown.points["document"].max() in (None, -1):
            return "place"
        chosen = self.selection.dots
        return chosen if chosen in _BY.values() else "document"

    def tick(self) -> None:
        """Show what was awaited, first in words."""
        if self._undrawn:
            self._undrawn = False
            self._draw()
        if self._job is None:
            return
        if not self._job.wait(0.06 if self._shown is None else 0):
            share = self._job.what or "at work"
            self._tell(str(Markup('<p class="muted" role="status">{} …</p>').format(share)))
            return
        job, self._job = self._job, None
        if job.failed:
            self._shown = None
            self._plot.object = None
            self._tell(str(empty("Nothing to lay out", job.sentence)))
            return
        self._shown = job.result
        self._by.value = self._colour
        self._say(self._shown)
        self._undrawn = True

    def _offer(self, memory: MemoryStore) -> None:
        """What may be laid out, and begin with what is chosen."""
        found = {f"{of}, version {one.number}": (of, one) for of, one in sources(memory)}
        if not found:
            self._job, self._shown, self._plot.object = None, None, None
            self._tell(
                str(
                    empty(
                        "This memory holds tokens and no vectors",
                        "Make gists and addresses with `megacontext memory refresh`.",
                    )
                )
            )
            return
        names = list(found)
        source = self._source.value if self._source.value in names else names[0]
        self._source.param.update(options=names, value=source)
        of, version = found[source]
        levels = levels_of(memory, of)
        level = self.selection.level if self.selection.level in levels else next(iter(levels), 1)
        self._level.param.update(
            options={f"L{lod} · {count(memory.memory.count(lod))} nodes": lod for lod in levels or [1]},
            value=level,
        )
        without = of == ADDRESSES and not any(kind == GISTS for kind, _ in found.values())
        note = "This memory has no gists of its own: what is shown are the addresses of its blocks."
        self._note.object = str(Markup('<p class="muted">{}</p>').format(note)) if without else ""
        # A memory that is being written is laid out anew when it has grown by a tenth.
        if not self._laid_tokens <= memory.num_tokens < 1.1 * self._laid_tokens:
            self._laid_tokens = memory.num_tokens
        self._how.value = self._layout
        asked = (id(memory), source, level, self._layout, memory.memory.revision, self._laid_tokens)
        if asked != self._asked:
            self._asked = asked
            self._job = project(memory, of, version, level, id(self), self._layout)

    def _draw(self) -> None:
        shown = self._shown
        if shown is None:
            return
        plot = drawn(plots.gist_scatter(shown.points, self._drawn_by, shown.explained))
        dots, ring = (part.handles["source"] for part in plot.subplots.values())
        self._dots, self._ring = dots, ring
        dots.selected.on_change("indices", self._picked)
        self._show_ring()
        self._plot.object = plot.state

    def _say(self, shown: Projection) -> None:
        points = shown.points
        self._drawn_by = self._colour
        if self._drawn_by == "document":
            known = points.filter(points["document"] >= 0).unique("document").sort("document")
            names = {
                number: visible(name[:80]) for number, name in known.select("document", "name").iter_rows()
            }
            self._legend.object = str(class_legend(names)) if names else ""
        else:
            self._legend.object = str(
                scale_legend(scale_colours("plain"), "oldest", "newest", "place in the history")
            )
        what = "All" if len(points) == shown.num_nodes else f"{count(len(points))}, evenly spaced, of"
        said = f"{what} {count(shown.num_nodes)} {shown.of} of level {shown.lod}, {count(shown.width)} numbers each"
        self._said.object = str(Markup('<p class="muted">{}</p>').format(plain(said)))

    def _show_ring(self) -> None:
        node, shown = parse_node(self.selection.node), self._shown
        if shown is None or self._ring is None:
            return
        at = (
            shown.points.filter((shown.points["lod"] == node.lod) & (shown.points["index"] == node.index))
            if node
            else None
        )
        fed = {"x": at["x"].to_list(), "y": at["y"].to_list()} if at is not None else {"x": [], "y": []}
        if {name: list(column) for name, column in self._ring.data.items()} != fed:
            self._ring.data = fed

    def _picked(self, attribute: str, old: Any, new: list[int]) -> None:
        shown = self._shown
        if not new or shown is None:
            return
        lod, index = shown.points["lod"][new[0]], shown.points["index"][new[0]]
        self.selection.param.update(node=f"{lod}:{index}", view="tree")

    def _layout_chosen(self, event: Any) -> None:
        if event.new is not None and event.new != self._layout:
            self.selection.layout = "" if event.new == "pca" else event.new

    def _colour_chosen(self, event: Any) -> None:
        if event.new is not None and event.new != self._colour:
            self.selection.dots = event.new

    def _level_chosen(self, event: Any) -> None:
        if event.new is not None and event.new != self.selection.level and self._asked is not None:
            self.selection.level = event.new

    def _tell(self, said: str) -> None:
        if said and self._said.object != said:
            self._said.object = said
