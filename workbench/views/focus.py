"""What did the model see of the history at each refocus step, why, and what did it answer?"""

from __future__ import annotations

import holoviews as hv
import panel as pn
import panel_material_ui as pmui
import polars as pl
from markupsafe import Markup

from workbench import plots
from workbench.desk import Desk
from workbench.stores.run import RunStore
from workbench.text import arm_name, count, level_legend, percent, plain, table, verdict
from workbench.views.parts import card, drawing, empty, pairs, prose, side_by_side, stack


class FocusView:
    """The working context at the chosen step, its scores and edits, all steps below, and every arm's answer."""

    needs = "run"

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self.store, self.selection = desk.run, desk.selection
        self._question, self._answers = prose(""), prose("")
        self._legend, self._step_text, self._steps_table = prose(""), prose(""), prose("")
        self._slider = pmui.IntSlider(
            label="Refocus step", start=0, end=1, value=0, sizing_mode="stretch_width", margin=(0, 12)
        )
        self._steps_plot = drawing(None)
        self._body = stack()
        self._entries = pl.DataFrame()
        self._needed: list[int] = []
        self._shown: tuple[object, ...] = ()
        self._pipe: hv.streams.Pipe | None = None
        self._slider.param.watch(self._slid, "value")
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
        """Nothing waits."""

    def refresh(self) -> None:
        store, selection = self.store, self.selection
        history, question, arm = selection.history, selection.question, selection.arm
        self._question.object = str(question_line(store, history, question))
        self._answers.object = str(answers_table(store, history, question, arm))
        self._entries = store.entries(history, arm, question)
        self._needed = store.needed_tokens(history, question)
        wanted = (history, question, arm, len(self._entries))
        if wanted == self._shown:
            self._show_step()
            return
        self._shown = wanted
        if self._entries.is_empty():
            self._pipe = None
            self._body.objects = [card("Working context", "", prose(_nothing(store)))]
            return
        self._show_question()

    def _show_question(self) -> None:
        entries, block_size = self._entries, self.store.block_size or 0
        self._legend.object = str(level_legend(entries["lod"].unique().to_list(), block_size))
        last = int(entries["step"].max())
        self._slider.param.update(end=max(last, 1), disabled=last == 0, value=self._step())
        self._steps_plot.object = plots.context_steps(entries, "budget")
        steps = self.store.focus_steps(self.selection.history, self.selection.arm, self.selection.question)
        self._steps_table.object = str(steps_table(steps))
        if self._pipe is None:
            self._pipe = hv.streams.Pipe(data=self._now())
            threshold = self.store.threshold
            lens = hv.DynamicMap(lambda data: plots.context_lens(data, self._needed), streams=[self._pipe])
            scores = hv.DynamicMap(
                lambda data: plots.lens_scores(data, "budget", threshold), streams=[self._pipe]
            )
            self._body.objects = [
                card("Working context", "What the model sees of the history, before the edits of this step. Above, "
                     "each entry over the tokens that it stands for; below, over the positions that it costs. "
                     "The green mark is where the answer stands.",
                     self._slider, self._step_text, self._legend, drawing(lens)),
                card("Scores of this step", "Positive asks for more detail, negative for less. "
                     "▲ expanded, ▼ collapsed; dashed: the threshold.", drawing(scores)),
                side_by_side(
                    card("All steps", "One line per step, the first on top", self._steps_plot),
                    card("Edits", "", self._steps_table),
                ),
            ]  # fmt: skip
        self._show_step()

    def _show_step(self) -> None:
        if self._pipe is None or self._entries.is_empty():
            return
        step = self._step()
        self._slider.value = step
        now = self._now()
        edits = now.filter(pl.col("edit") != "")
        parts = [f"{len(now)} entries, {count(now['cost_positions'].sum())} positions"]
        parts += [f"{kind}s {part.height}" for (kind,), part in edits.group_by("edit", maintain_order=True)]
        self._step_text.object = str(
            Markup('<p class="muted">Step {} of {}: {}{}</p>').format(
                step, int(self._entries["step"].max()), "; ".join(parts),
                "" if len(edits) else "; no edits: the final context",
            )
        )  # fmt: skip
        self._pipe.send(now)

    def _slid(self, event: object) -> None:
        # The last step is the place to which a selection without a step leads: then there is none to be kept.
        if self._slider.value != self._step():
            self.selection.step = self._slider.value

    def _step(self) -> int:
        """The selected step, the last one where none is selected or it is not there."""
        last = int(self._entries["step"].max())
        return self.selection.step if 0 <= self.selection.step <= last else last

    def _now(self) -> pl.DataFrame:
        return self._entries.filter(pl.col("step") == self._step())


def question_line(store: RunStore, history: str, question: int) -> Markup:
    """What was asked, where the fact stands and what was expected."""
    rows = store.questions(history).filter(pl.col("question") == question).to_dicts() if history else []
    if not rows:
        return empty("No question yet", "Questions appear as soon as the run asks them.")
    row = rows[0]
    kind = row["kind"] or "–"
    if row["versions"] and row["versions"] > 1:
        kind += f", {row['versions']} values, the last counts"
    prompt = Markup('<span class="quote">{}</span>').format(plain(row["prompt"] or f"question {question}"))
    depth = "–" if row["depth"] is None else f"{percent(row['depth'], 0)} of the way from oldest to newest"
    return pairs([
        ("asked", prompt), ("expected", Markup("<b>{}</b>").format(plain(row["expected"]))),
        ("kind", kind), ("place", depth),
        ("blocks", ", ".join(map(str, (row["needed_blocks"] or [])[:12])) or "–"),
    ])  # fmt: skip


def answers_table(store: RunStore, history: str, question: int, arm: str) -> Markup:
    """Every arm's answer to one question; the chosen arm stands out."""
    rows = store.answers(history, question).to_dicts() if history else []
    if not rows:
        return empty("No answers yet", "They appear as soon as the run comes to them.")
    lines = [
        (arm_name(row["arm"]), plain(row["answered"], 80), verdict(row["correct"]),
         {True: "yes", False: "no", None: "–"}[row["hit"]], count(row["cost_positions"]),
         f"{row['latency_ms'] or 0:.0f} ms")
        for row in rows
    ]  # fmt: skip
    marked = [at for at, row in enumerate(rows) if row["arm"] == arm]
    return table(("arm", "answered", "", "block read", "positions", "took"), lines, marked, first=3)


def steps_table(steps: pl.DataFrame) -> Markup:
    """The refocus steps of one question."""
    lines = [
        (row["step"], count(row["entries"]), f"{count(row['cost_positions'])} of {count(row['budget_positions'])}",
         row["expanded"], row["collapsed"], row["refused"], f"{row['score_max'] or 0:+.2f}",
         f"{row['latency_ms'] or 0:.1f} ms")
        for row in steps.to_dicts()
    ]  # fmt: skip
    return table(
        ("step", "entries", "positions", "expanded", "collapsed", "refused", "top score", "took"), lines
    )


def final_raw_blocks(entries: pl.DataFrame) -> list[int]:
    """Blocks that stand as tokens in the last step of `entries`."""
    if entries.is_empty():
        return []
    return entries.filter((pl.col("step") == entries["step"].max()) & (pl.col("lod") == 0))["index"].to_list()


def _nothing(store: RunStore) -> Markup:
    return empty(
        "No refocus steps were recorded for this question",
        "Choose one marked “traced” in the list of questions." if len(store.frame("entry"))
        else "They appear here as soon as the run traces a question." if store.live
        else "This run traced no question.",
    )  # fmt: skip
