"""The scores of one step, and another scorer's on the very same context: where do the two disagree?

The other scorer runs with the run's own model and memory, in a process of its own; meanwhile the page says so. Where it
cannot run, what a recorded arm scored at the same step is set beside instead, as far as both saw the same entries.
"""

from __future__ import annotations

import panel as pn
import panel_material_ui as pmui
import polars as pl
from markupsafe import Markup

from workbench import plots
from workbench.desk import Desk
from workbench.palette import arm_order
from workbench.stores.agreement import Agreement, agreement
from workbench.stores.replay import SCORERS
from workbench.text import arm_name, plain, table
from workbench.views.parts import card, drawing, prose, stack
from workbench.views.step_words import level_chip
from workbench.views.wishes import Asked

NOBODY = "no other scorer"
REPRODUCED = 1e-4
"""Differences below this are of rounding."""


class ComparedScores:
    """A card."""

    def __init__(self, desk: Desk):
        self._desk, self._store, self._selection = desk, desk.run, desk.selection
        self._choice = pmui.Select(
            label="Compare with",
            options={NOBODY: ""},
            value="",
            size="small",
            margin=(10, 0, 0, 0),
            width=260,
        )
        self._own_name, self._other_name = prose(""), prose("", visible=False)
        self._said = prose("", visible=False)
        self._own_plot, self._other_plot = drawing(None), drawing(None)
        self._own_feed, self._other_feed = plots.Feed(), plots.Feed()
        self._end = 0.0
        self._other_part = stack(self._other_name, self._other_plot)
        self._other_part.visible = False
        self._asked = Asked(desk)
        self._entries = pl.DataFrame()
        self._now = pl.DataFrame()
        self._drawn: tuple[object, ...] = ()
        self._choice.param.watch(self._chosen, "value")

    def panel(self) -> pn.viewable.Viewable:
        return card(
            "Scores of this step",
            "Positive asks for more detail, negative for less. ▲ expanded, ▼ collapsed; dashed: the threshold.",
            self._choice, self._own_name, self._own_plot, self._other_part, self._said,
        )  # fmt: skip

    def refresh(self, entries: pl.DataFrame, step: int, end: float) -> None:
        """Show that step of `entries`, which are all of the question; their axis ends at `end` positions."""
        chosen = self._selection
        self._offer()
        now_key = (chosen.run, chosen.history, chosen.question, chosen.arm, step, len(entries))
        if now_key != self._drawn:
            self._drawn = now_key
            self._now = entries.filter(pl.col("step") == step)
            self._own_name.object = str(
                Markup("<p>{} <span class='muted'>as recorded</span></p>").format(arm_name(chosen.arm))
            )
            if end != self._end:
                self._end = end
                self._own_plot.object = self._other_plot.object = None
            self._own_feed = self._plotted(self._own_plot, self._own_feed, self._now)
            self._asked.again()
        if self._asked.want(step, chosen.against):
            self._show_other()

    def tick(self) -> None:
        """Draw the other scores when they have come."""
        if self._asked.look():
            self._show_other()

    def _offer(self) -> None:
        chosen, store = self._selection, self._store
        assert store is not None
        recorded = [arm for arm in store.traced_arms(chosen.history, chosen.question) if arm != chosen.arm]
        names = arm_order([*SCORERS, *recorded, *([chosen.against] if chosen.against else [])])
        self._choice.param.update(options={NOBODY: ""} | {name: name for name in names}, value=chosen.against)

    def _chosen(self, event: object) -> None:
        if self._choice.value is not None and self._choice.value != self._selection.against:
            self._selection.against = self._choice.value

    def _show_other(self) -> None:
        by, answer = self._selection.against, self._asked.answer
        self._said.visible = bool(by)
        self._other_part.visible = bool(by) and answer is not None
        if not by:
            return
        if answer is None:
            self._said.object = str(
                Markup(
                    '<p class="muted" role="status">{} is scoring this context. The first time opens the run\'s model, '
                    "some seconds; the page goes on meanwhile.</p>"
                ).format(plain(by, 60))
            )
            return
        if self._asked.sentence:
            self._beside_recorded(by)
            return
        other = self._now.sort("slot").with_columns(
            score=pl.Series(answer["scores"], dtype=pl.Float64),
            edit=pl.Series(answer["edits"], dtype=pl.String),
        )
        self._draw(
            other, "scored anew on the same context; its edits are those of an allocator without cooldown"
        )
        self._said.object = str(
            agreement_words(agreement(self._now, other), self._selection.arm, by) + self._reproduced(answer)
        )

    def _reproduced(self, answer: dict[str, object]) -> Markup:
        if "reproduced" not in answer:
            return Markup("")
        most = float(str(answer["reproduced"]))
        said = (
            "Scored anew, the recorded scores come out the same."
            if most < REPRODUCED
            else f"Scored anew, an entry's score differs from the recorded one by up to {most:.2g}: the memory, the "
            "model or the code is another one than then."
        )
        return Markup('<p class="muted">{}</p>').format(said)

    def _beside_recorded(self, by: str) -> None:
        """What the recorded arm of that name scored at the same step, as far as its context has the same entries."""
        chosen, store = self._selection, self._store
        assert store is not None
        sentence = Markup('<p class="muted">{}</p>').format(plain(self._asked.sentence))
        rows = store.entries(chosen.history, by, chosen.question)
        if by == chosen.arm or rows.is_empty():
            self._other_part.visible = False
            self._said.object = str(sentence)
            return
        step = min(int(self._now["step"][0]), int(rows["step"].max()))
        theirs = rows.filter(pl.col("step") == step)
        other = (
            self._now.sort("slot")
            .drop("score", "edit")
            .join(theirs.select("lod", "index", "score", "edit"), on=["lod", "index"], how="left")
            .sort("slot")
        )
        self._draw(other, f"as recorded at its own step {step}, where its context has the same entries")
        self._said.object = str(sentence + agreement_words(agreement(self._now, other), chosen.arm, by))

    def _draw(self, other: pl.DataFrame, how: str) -> None:
        self._other_name.param.update(
            object=str(
                Markup("<p>{} <span class='muted'>{}</span></p>").format(
                    arm_name(self._selection.against), how
                )
            ),
            visible=True,
        )
        self._other_feed = self._plotted(self._other_plot, self._other_feed, other)

    def _plotted(self, pane: pn.pane.HoloViews, feed: plots.Feed, entries: pl.DataFrame) -> plots.Feed:
        """Scores into a pane: drawn where there is no plot yet, else fed. The feed of the plot that is there."""
        if pane.object is None:
            feed = plots.Feed()
            threshold = self._store.threshold if self._store is not None else None
            pane.object = plots.lens_scores(entries, "budget", threshold, end=self._end, feed=feed)
        else:
            plots.feed_scores(feed, entries)
        return feed


def agreement_words(found: Agreement, one: str, other: str) -> Markup:
    """How far two scorers agree, in a sentence, and the entries that they rank most differently."""
    if found.correlation is None:
        said = (
            f"{len(found.rows)} of {found.entries} entries are scored by both: too few, or all alike, to compare "
            "their orders."
        )
    else:
        said = (
            f"Rank correlation {found.correlation:+.2f} over {len(found.rows)} of {found.entries} entries "
            "(Spearman; +1 is the same order, 0 none)."
        )
    disputed = found.disputed()
    if disputed.is_empty():
        return Markup("<p>{}</p>").format(said)
    lines = [
        (level_chip(row["lod"]), f"{row['start']:,}–{row['stop']:,}", f"{row['score']:+.2f}", f"{row['rank']:g}",
         f"{row['other']:+.2f}", f"{row['other_rank']:g}")
        for row in disputed.to_dicts()
    ]  # fmt: skip
    head = (
        "level",
        "tokens",
        f"{plain(one, 30).striptags()}",
        "its rank",
        f"{plain(other, 30).striptags()}",
        "its rank",
    )
    return Markup("<p>{} Ranked most differently:</p>{}").format(said, table(head, lines, first=2))
