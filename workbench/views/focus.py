"""Why does the working context look as it does: what each refocus step scored, changed and refused, and how well?"""

from __future__ import annotations

import panel as pn
import panel_material_ui as pmui
import polars as pl

from workbench import plots
from workbench.desk import Desk
from workbench.stores.steps import changes, decisions, level_raster, needed_standing, reason_counts
from workbench.text import level_legend
from workbench.turns import in_turn
from workbench.views.asked import answers_table, not_traced, question_line
from workbench.views.comparing import ComparedScores
from workbench.views.exactness import ExactCard
from workbench.views.parts import card, drawing, prose, side_by_side, stack
from workbench.views.step_words import changes_table, decisions_table, reasons_line, step_line, steps_table
from workbench.views.stepping import Stepper
from workbench.views.texts import texts_of

AXES = {"positions of the budget": "budget", "tokens of the history": "tokens"}


class FocusView:
    """The working context at the chosen step and through time, its scores beside another scorer's, its edits."""

    needs = "run"

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self.desk, self.store, self.selection = desk, desk.run, desk.selection
        self._question, self._answers = prose(""), prose("")
        self._legend, self._step_text, self._steps_table = prose(""), prose(""), prose("")
        self._decisions, self._reasons, self._changes = prose(""), prose(""), prose("")
        self._stepper = Stepper(desk.selection, "focus")
        self._axis = pmui.RadioButtonGroup(
            options=AXES, value="budget", size="small", margin=(6, 0, 0, 0), sx={"whiteSpace": "nowrap"}
        )
        self._history = drawing(None)
        self._frame = plots.RowFrame()
        self._compared = ComparedScores(desk)
        self._exact = ExactCard(desk)
        self._body = stack()
        self._entries = pl.DataFrame()
        self._needed: list[int] = []
        self._shown: tuple[object, ...] = ()
        self._step_shown: tuple[object, ...] = ()
        self._lens, self._lens_feed = drawing(None), plots.Feed()
        self._axis.param.watch(lambda event: in_turn(self._draw_history), "value")
        self._end = 1.0
        self._all_drawn = False
        self._cards = self._make_cards()
        self.refresh()

    def panel(self) -> pn.viewable.Viewable:
        return stack(
            side_by_side(
                card("Question", "", self._question),
                card("How each arm answered it", "", self._answers),
            ),
            self._body,
        )

    def tick(self) -> None:
        """Draw what the page opens with in words, then what lies further down; take in what was scored meanwhile."""
        if self._entries.is_empty():
            return
        if self._lens.object is None:
            self._draw_lens()
            return
        if not self._all_drawn:
            self._all_drawn = True
            self._draw_history()
            self._show_scores()
            return
        self._compared.tick()
        self._exact.tick()

    def refresh(self) -> None:
        store, selection = self.store, self.selection
        history, question, arm = selection.history, selection.question, selection.arm
        self._question.object = str(question_line(store, history, question))
        self._answers.object = str(answers_table(store, history, question, arm))
        self._entries = store.entries(history, arm, question)
        wanted = (history, question, arm, len(self._entries))
        if wanted != self._shown:
            self._shown = wanted
            self._needed = store.needed_tokens(history, question)
            if self._entries.is_empty():
                self._body.objects = [card("Working context", "", prose(not_traced(store)))]
            else:
                self._show_question()
                self._body.objects = self._cards
        if not self._entries.is_empty():
            self._show_step()

    # One question --------------------------------------------------------------------------------------------------

    def _show_question(self) -> None:
        entries = self._entries
        self._legend.object = str(level_legend(entries["lod"].unique().to_list(), self.store.block_size or 0))
        steps = self.store.focus_steps(self.selection.history, self.selection.arm, self.selection.question)
        self._steps_table.object = str(steps_table(steps))
        self._end = float(
            entries.group_by("step").agg(pl.col("cost_positions").sum())["cost_positions"].max()
        )
        if self._lens.object is not None:
            self._draw_lens()
        self._all_drawn = False

    def _make_cards(self) -> list[pn.viewable.Viewable]:
        return [
            card("Working context", "What the model sees of the history, before the edits of this step. Above, each "
                 "entry over the tokens that it stands for; below, over the positions that it costs. The green mark "
                 "is where the answer stands.",
                 self._stepper.panel(), self._step_text, self._lens, self._legend),
            side_by_side(
                card("What the step did, and why",
                     "Edits first, then entries that asked for detail in vain, strongest scores first.",
                     self._decisions, self._reasons),
                card("What entered and what left", "Tokens that became visible, and passages that were folded.",
                     self._changes),
            ),
            self._compared.panel(),
            self._exact.panel(),
            card("All steps", "One row per step, the first on top; the frame is around the chosen one. "
                 "◆ is the entry that holds the answer: green where it stands as tokens, white where it is folded.",
                 self._axis, self._history, self._steps_table),
        ]  # fmt: skip

    def _draw_lens(self) -> None:
        self._lens_feed = plots.Feed()
        self._lens.object = plots.context_lens(self._now(), self._needed, end=self._end, feed=self._lens_feed)

    def _draw_history(self) -> None:
        axis = self._axis.value
        raster = level_raster(self._entries, axis)
        self._frame.move(self._row(), len(raster.steps))
        self._history.object = plots.context_rows(
            raster.levels, [str(step) for step in raster.steps], raster.end, axis,
            needed=needed_standing(self._entries, self._needed), frame=self._frame,
        )  # fmt: skip

    # One step --------------------------------------------------------------------------------------------------------

    def _show_step(self) -> None:
        last = int(self._entries["step"].max())
        self._stepper.show(self._step(), last)
        if self._all_drawn:
            in_turn(self._show_scores)  # they stand further down, and what is in sight need not wait for them
        wanted = (*self._shown, self._step())
        if wanted == self._step_shown:
            return
        self._step_shown = wanted
        now, size = self._now(), self.store.block_size or 0
        self._step_text.object = str(step_line(now, self._step(), last))
        self._decisions.object = str(decisions_table(decisions(now)))
        self._reasons.object = str(reasons_line(reason_counts(now)))
        self._changes.object = str(
            changes_table(changes(now, size), texts_of(self.desk), self._step() == last)
        )
        self._frame.move(self._row(), self._entries["step"].n_unique())
        if self._lens.object is not None:
            plots.feed_lens(self._lens_feed, now, self._end)

    def _show_scores(self) -> None:
        # Its turn may come when another question is shown already, one without steps or not drawn yet.
        if self._entries.is_empty() or not self._all_drawn:
            return
        self._compared.refresh(self._entries, self._step(), self._end)
        self._exact.refresh(self._entries, self._step())

    def _step(self) -> int:
        """The selected step, the last one where none is selected or it is not there."""
        last = int(self._entries["step"].max())
        return self.selection.step if 0 <= self.selection.step <= last else last

    def _row(self) -> int:
        return self._entries["step"].unique().sort().to_list().index(self._step())

    def _now(self) -> pl.DataFrame:
        return self._entries.filter(pl.col("step") == self._step())
