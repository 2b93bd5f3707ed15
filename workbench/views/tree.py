"""Where in the history does the question find an echo, level by level?"""

from __future__ import annotations

import holoviews as hv
import panel as pn

from workbench import plots
from workbench.desk import Desk
from workbench.plots.tree import score_limits
from workbench.stores.run import RunStore
from workbench.views.focus import final_raw_blocks, question_line
from workbench.views.parts import card, drawing, empty, prose, stack


class TreeView:
    """The pyramid of one history, coloured by similarity to the chosen question; scroll zooms, drag moves."""

    needs = "run"

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self.store, self.selection = desk.run, desk.selection
        self._question = prose("")
        self._holder = pn.Column(sizing_mode="stretch_width", margin=0)
        self._drawn: tuple[object, ...] = ()
        self.refresh()

    def panel(self) -> pn.viewable.Viewable:
        return stack(
            card("Question", "", self._question),
            card(
                "Gist tree",
                "Every node shows the highest similarity (cosine of addresses) with the question among the blocks "
                "below it. Scroll to zoom, drag to move. ▲ needed block, ■ blocks that the chosen arm reads as tokens.",
                self._holder,
            ),
        )

    def tick(self) -> None:
        """Nothing waits."""

    def refresh(self) -> None:
        history, question, arm = self.selection.history, self.selection.question, self.selection.arm
        store = self.store
        self._question.object = str(question_line(store, history, question))
        scores, num_tokens, block_size = (
            store.block_scores(history, question),
            store.num_tokens(history),
            store.block_size,
        )
        # Drawing anew would throw away the zoom, so it happens only when something else is to be shown.
        wanted = (history, question, arm, len(scores), num_tokens)
        if wanted == self._drawn:
            return
        self._drawn = wanted
        if scores.is_empty() or block_size is None:
            self._holder.objects = [prose(_nothing(store, history))]
            return
        # Blocks may have been added since the question was asked: what was scored is drawn.
        scored_tokens = min(num_tokens, (len(scores) + 1) * block_size - 1)
        row = store.questions(history).filter(store.questions(history)["question"] == question)
        needed = (row["needed_blocks"].to_list() or [None])[0] or []
        raw = final_raw_blocks(store.entries(history, arm, question))
        limits = score_limits(scores["score"].to_numpy())

        def visible(x_range: tuple[float, float] | None) -> hv.Overlay:
            return plots.tree_pyramid(
                scores, scored_tokens, block_size, needed=needed, raw=raw, limits=limits, x_range=x_range
            )

        self._holder.objects = [drawing(hv.DynamicMap(visible, streams=[hv.streams.RangeX()]))]


def _nothing(store: RunStore, history: str) -> str:
    if not history:
        return empty("No history yet", "Histories appear as soon as the run stores the first tokens.")
    return empty(
        "This question was not traced",
        "Choose one marked “traced” in the list of questions; `megacontext demo --help` says how to trace more.",
    )
