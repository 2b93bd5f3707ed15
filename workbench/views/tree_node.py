"""The cards below a tree: the chosen node, and where a text stands; shown anew only when they say something else.

What takes long (the nearest blocks, a search) is awaited in the background and shown when a tick finds it there.
"""

from __future__ import annotations

from collections.abc import Callable

import panel_material_ui as pmui
from markupsafe import Markup

from megacontext.errors import MegaContextError
from megacontext.spans import Node, parent
from workbench.stores.background import Job
from workbench.stores.finding import MOST_HITS, Place, find_text
from workbench.stores.memory import MemoryStore
from workbench.stores.nodes import Near, edits_of, exists, facts, near, text_of
from workbench.stores.painting import Subject
from workbench.views.components import Links
from workbench.views.node_card import HrefOf, edit_words, near_words, node_name, node_words, place_words
from workbench.views.parts import card, empty, heading, problem, prose

QUICKLY_S = 0.06
"""What is ready so soon is shown at once, and not at the next tick."""
_NEAR_TOKENS = 24


class NodePanel:
    """The card of the chosen node. `jumped` is told the node of a link that was followed."""

    def __init__(self, jumped: Callable[[str], None], href: HrefOf, keys_said: str):
        self._href, self._keys_said = href, keys_said
        self._facts, self._near_links, self._edits = Links(jumped), Links(jumped), prose("")
        self.card = card("Node", "", self._facts, self._near_links, self._edits)
        self._shown: object = None
        self._near: Job[list[Near]] | None = None

    def forget(self) -> None:
        """What is shown is of another tree."""
        self._shown = None

    def show(self, memory: MemoryStore, subject: Subject, node: Node | None, value: str) -> None:
        """Show a node of the memory, or that there is none; `value` is what it is coloured by."""
        there = node is not None and exists(node, subject.num_tokens, subject.block_size)
        vocabulary = memory.vocabulary()
        rows = len(subject.run.frame("entry")) if subject.run is not None else 0
        contained = node is not None and exists(
            parent(node, subject.block_size), subject.num_tokens, subject.block_size
        )
        key = (
            node, there, contained, value, id(memory), memory.memory.revision, memory.memory.access.steps,
            vocabulary.done, rows,
        )  # fmt: skip
        if key != self._shown:
            self._shown = key
            self._near_links.visible = there
            self._edits.visible = there and subject.run is not None and node is not None and node.lod > 0
            self.card[0].object = str(heading(f"Node {node_name(node)}" if node and there else "Node"))
            if node is None or not there:
                self._near = None
                self._facts.html = str(self._no_node(node))
                return
            self._show_facts(memory, subject, node, value)
        self._show_near(memory)

    def _show_facts(self, memory: MemoryStore, subject: Subject, node: Node, value: str) -> None:
        vocabulary = memory.vocabulary()
        vocabulary.wait(QUICKLY_S)
        try:
            known = facts(memory, node)
        except MegaContextError as error:
            self._facts.html = str(problem(str(error)))
            return
        self._facts.html = str(node_words(known, vocabulary, ("coloured", value), self._href))
        self._near = near(memory, node, id(self))
        self._near.wait(QUICKLY_S)
        if subject.run is not None:
            edits = edits_of(subject.run, subject.history, node, subject.block_size)
            self._edits.object = str(heading("Opened and closed", "by arms of this run") + edit_words(edits))

    def _show_near(self, memory: MemoryStore) -> None:
        if self._near is None:
            return
        texts: list[str] = []
        if self._near.done and not self._near.failed:
            vocabulary = memory.vocabulary()
            known = vocabulary.result if vocabulary.done and not vocabulary.failed else None
            starts = [one.node.index * memory.block_size for one in self._near.result]
            texts = [text_of(known, memory.memory.tokens(at, at + _NEAR_TOKENS)) for at in starts]
        said = str(heading("Near to it", "by address") + near_words(self._near, texts, self._href))
        if self._near_links.html != said:
            self._near_links.html = said
        if self._near.done:
            self._near = None

    def _no_node(self, asked: Node | None) -> Markup:
        if asked is not None:
            return empty(f"No {node_name(asked)} in this memory", "Click a node of the tree.")
        return empty(
            "Nothing chosen yet", f"Click a node of the tree, or give it the focus: {self._keys_said}."
        )


class FindPanel:
    """The card in which a text is looked for. `asked` is told what was typed."""

    def __init__(self, asked: Callable[[str], None], jumped: Callable[[str], None], href: HrefOf):
        self._href = href
        self._field = pmui.TextInput(
            label="Exact text", placeholder="signs to look for, then Enter", sizing_mode="stretch_width",
            size="small", margin=(4, 0),
        )  # fmt: skip
        self._field.param.watch(lambda event: asked(event.new), "value")
        self._places = Links(jumped)
        self.card = card("Find a text", "Exactly these signs, wherever they stand", self._field, self._places)
        self._text = ""
        self._found: Job[list[Place]] | None = None

    def forget(self) -> None:
        """What was found is of another memory."""
        self._text, self._found, self._places.html = "", None, ""

    def show(self, memory: MemoryStore, text: str) -> None:
        """Look for a text that was not looked for before, and show what has come."""
        if text != self._text:
            self._text = self._field.value = text
            self._found = find_text(memory, text, id(self)) if text else None
            self._places.html = ""
            if self._found is not None:
                self._found.wait(QUICKLY_S)
        if self._found is None:
            return
        said = str(place_words(self._found, text, MOST_HITS, self._href))
        if self._places.html != said:
            self._places.html = said
        if self._found.done:
            self._found = None
