"""What does a memory answer, and what was read for it?

A question is asked of the chosen memory; its looks are drawn as they are made, its answer grows as it is said, and
each passage that was read leads to its place in the tree. Here, and nowhere else, a memory is written: notes and
forgetting, each after a confirmation, where the workbench was started for it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial

import holoviews as hv
import panel as pn
import panel_material_ui as pmui
import polars as pl
from markupsafe import Markup

from megacontext.errors import MegaContextError
from workbench import plots
from workbench.desk import Desk
from workbench.state import spans_of
from workbench.stores.talk import Asking, Exchange, Talk
from workbench.text import count, level_legend
from workbench.turns import in_one_go, in_turn
from workbench.views.exchange import Confirmed, ExchangeCard
from workbench.views.parts import CSS, card, drawing, empty, problem, prose, stack, toolbar

STEP_MS = 140
"""How long each look is shown while an answer is being found: they come faster than anybody sees."""
SCORERS = ("lensnet", "lensnet+bm25", "bm25", "dense", "dense+bm25", "recency", "sinks+recency", "random")
"""Who may choose what is read: those that want nothing but a question."""


class TalkView:
    """Where questions are written; the looks of the exchange that is shown; the conversation, newest first."""

    needs = "memory"

    def __init__(self, desk: Desk):
        self.desk, self.selection = desk, desk.selection
        self._document = pn.state.curdoc
        self._talk = Talk(desk.library, self._told)
        self._due = False
        self._memory = ""
        self._finding: Future[list[str]] | None = None
        self._cards: list[ExchangeCard] = []
        self._shown: Exchange | None = None
        self._step, self._stepped_at = 0, 0.0
        self._make_controls()
        self._make_strip()
        self._body = stack()
        self._problem = prose("", visible=False)
        self._conversation = stack()
        self.refresh()

    def _make_controls(self) -> None:
        small = {"size": "small", "margin": (6, 8)}
        self._model = pmui.Select(label="Model", options=[], width=190, **small)
        self._scorer = pmui.Select(
            label="Scorer", options=list(SCORERS), value=SCORERS[0], width=170, **small
        )
        self._budget = pmui.IntInput(
            label="Budget, positions", value=0, start=0, end=65_536, width=150, **small
        )
        self._question = pmui.TextInput(
            label="Question",
            placeholder="Ask the memory something",
            min_width=260,
            styles={"flex": "1 1 300px"},
            margin=(6, 8),
        )
        self._ask = pmui.Button(label="Ask", color="primary", variant="contained", margin=(10, 8), width=90)
        self._stop = pmui.Button(label="Stop", variant="outlined", margin=(10, 8), width=90, disabled=True)
        self._runs_question = pmui.Button(
            label="Ask the run’s question", variant="text", size="small", margin=(0, 8)
        )
        self._pins = pn.Row(sizing_mode="stretch_width", styles={"flex-wrap": "wrap"}, margin=(0, 8))
        self._note = pmui.TextInput(
            label="Note", placeholder="Something to be remembered", sizing_mode="stretch_width"
        )
        self._keep = Confirmed("Keep the note", "Keep it in the memory", self._keep_note)
        self._question.param.watch(lambda _: in_turn(self._asked), "enter_pressed")
        self._ask.on_click(lambda _: in_turn(self._asked))
        self._stop.on_click(lambda _: self._talk.stop())
        self._runs_question.on_click(lambda _: in_turn(lambda: self._asked(self._question_of_run())))
        self._model.param.watch(lambda event: self._choose("model", event.new), "value")
        self._scorer.param.watch(lambda event: self._choose("scorer", event.new), "value")

    def _make_strip(self) -> None:
        self._pipe: hv.streams.Pipe | None = None
        self._picture = stack()
        self._legend, self._step_text = prose(""), prose("")
        self._slider = pmui.IntSlider(
            label="Look", start=0, end=1, value=0, sizing_mode="stretch_width", margin=(0, 12), disabled=True
        )
        self._slider.param.watch(lambda event: in_turn(partial(self._slid, event.new)), "value")
        self._strip = card(
            "What it looks at",
            "Each look of the question that is shown: the history above, the working context below.",
            self._slider, self._step_text, self._legend, self._picture,
        )  # fmt: skip
        self._strip.visible = False

    def panel(self) -> pn.viewable.Viewable:
        return self._body

    # Showing -----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        name = self.desk.memory_name
        if name != self._memory:
            self._memory = name
            self._talk.stop()
            self._talk = Talk(self.desk.library, self._told)
            self._cards, self._shown, self._conversation.objects = [], None, []
            self._strip.visible = False
            self._find_models()
        self._take_models()
        self._runs_question.visible = bool(self._question_of_run())
        self._show_pins()

    def tick(self) -> None:
        """Catch up, where nobody called from the other thread could reach the page."""
        self._take_models()
        self._draw()

    def _find_models(self) -> None:
        run = self.desk.run
        trained = str(run.recipe.get("model", "")) if run is not None else ""
        self._finding = self._talk.find_models(self._memory, [trained])
        self._body.objects = [
            card("Talk", "", prose(empty("Looking for the model that reads this memory …", "")))
        ]

    def _take_models(self) -> None:
        """Where the model was found, let questions be asked. Raises what opening the memory raised."""
        if self._finding is None or not self._finding.done():
            return
        finding, self._finding = self._finding, None
        fitting = finding.result()
        store = self.desk.memory()
        assert store is not None
        if not fitting:
            self._body.objects = [prose(empty(
                "No model here reads this memory",
                "It was made with other parts. Start the workbench with --model FOLDER, the folder of the model that "
                "it was made with.",
            ))]  # fmt: skip
            return
        chosen = self.selection.model if self.selection.model in fitting else fitting[0]
        self._model.param.update(options=fitting, value=chosen)
        self._scorer.value = self.selection.scorer if self.selection.scorer in SCORERS else SCORERS[0]
        self._body.objects = [
            card(
                "Ask", self._about(store.num_tokens),
                toolbar(self._question, self._ask, self._stop),
                self._runs_question,
                pn.FlexBox(self._model, self._scorer, self._budget, margin=0),
                self._pins,
                self._problem,
            ),
            self._strip,
            self._conversation,
            self._writing(),
        ]  # fmt: skip

    def _about(self, num_tokens: int) -> str:
        return (
            f"{self._memory}, {num_tokens:,} tokens. Every question is asked of the memory alone: neither it nor its "
            "answer becomes part of the history. Budget 0 is the model’s usual."
        )

    def _writing(self) -> pn.Column:
        if self.desk.library.may_write(self._memory):
            return card(
                "Notes",
                "A note becomes a document at the end of the memory, and may be read for the next question.",
                self._note, self._keep.panel,
            )  # fmt: skip
        return card(
            "Notes",
            "This memory is open for reading only. `megacontext workbench MEMORY --write` opens one to keep notes in "
            "and to forget passages of.",
        )

    def _show_pins(self) -> None:
        pins = spans_of(self.selection.pinned)
        if not pins:
            self._pins.objects = []
            return
        buttons = []
        for span in pins:
            button = pmui.Button(
                label=f"{span[0]:,}–{span[1]:,} ✕", variant="outlined", size="small", margin=(2, 4),
                description="Pinned tokens stay in view; click to let go of them",
            )  # fmt: skip
            button.on_click(lambda _, span=span: in_turn(partial(self._pin, span, False)))
            buttons.append(button)
        self._pins.objects = [
            pn.pane.HTML('<span class="muted">Pinned tokens</span>', stylesheets=[CSS], margin=(7, 4)),
            *buttons,
        ]

    # Asking ------------------------------------------------------------------------------------------------------

    def _choose(self, key: str, value: object) -> None:
        if value and value != getattr(self.selection, key):
            self.selection.param.update(**{key: value})

    def _asked(self, question: str | None = None) -> None:
        with self._telling():
            asked = self._question.value_input or self._question.value if question is None else question
            exchange = self._talk.ask(
                asked,
                Asking(
                    memory=self._memory, model=self._model.value, scorer=self._scorer.value,
                    budget=self._budget.value or 0, pinned=tuple(spans_of(self.selection.pinned)),
                ),
            )  # fmt: skip
            if question is None:
                self._question.param.update(value="", value_input="")
            self._show_exchange(exchange)
            made = ExchangeCard(self, exchange)
            self._cards = [*self._cards, made][-len(self._talk.exchanges) :]
            self._conversation.objects = [one.panel for one in reversed(self._cards)]
            self._draw()

    def _question_of_run(self) -> str:
        """The question that is selected of the memory's run, as a person would say it."""
        run, history = self.desk.run, self.desk.history_of_memory
        if run is None or not history:
            return ""
        rows = run.questions(history)
        prompts = rows.filter(rows["question"] == self.selection.question)["prompt"].to_list()
        return (
            str(prompts[0] or "").removeprefix("\nQuestion: ").removesuffix("\nAnswer:").strip()
            if prompts
            else ""
        )

    def show_exchange(self, exchange: Exchange) -> None:
        """Draw the looks of another exchange."""
        self._show_exchange(exchange)
        self._draw()

    def _show_exchange(self, exchange: Exchange) -> None:
        self._shown, self._step, self._stepped_at = exchange, -1, 0.0

    # Writing -----------------------------------------------------------------------------------------------------

    def _keep_note(self) -> None:
        with self._telling():
            number = self._talk.note(
                self._memory, self._note.value_input or self._note.value, self._model.value
            )
            self._note.param.update(value="", value_input="")
            self._keep.said(f"Kept as document {number}.")

    def forget(self, start: int, stop: int) -> bool:
        """Take tokens out of the memory; whether that went well."""
        with self._telling():
            self._talk.forget(self._memory, start, stop, self._model.value)
            return True
        return False

    def pin(self, start: int, stop: int) -> None:
        """Keep tokens in view from the next question on."""
        with self._telling():
            self._pin((start, stop), True)

    def _pin(self, span: tuple[int, int], pinned: bool) -> None:
        spans = [one for one in spans_of(self.selection.pinned) if one != span]
        spans += [span] if pinned else []
        self.selection.pinned = ",".join(f"{start}-{stop}" for start, stop in sorted(spans))

    def jump(self, start: int, stop: int) -> None:
        """Show tokens in the tree."""
        store = self.desk.memory()
        size = 32 if store is None else store.block_size
        around = 16 * size
        self.selection.param.update(
            view="tree", node=f"1:{start // size}", span=f"{max(0, start - around)}-{stop + around}"
        )

    @property
    def may_forget(self) -> bool:
        """Whether the memory may be written."""
        return self.desk.library.may_write(self._memory)

    # Drawing -----------------------------------------------------------------------------------------------------

    def _telling(self) -> _Telling:
        return _Telling(self._problem)

    def _told(self) -> None:
        """Called from the other thread: draw soon, once, however much has happened."""
        if self._document is not None and not self._due:
            self._due = True
            self._document.add_next_tick_callback(self._draw)

    def _draw(self) -> None:
        with in_one_go():
            self._draw_all()

    def _draw_all(self) -> None:
        self._due = False
        for made in self._cards[-2:]:
            made.draw()
        busy = self._talk.busy
        self._ask.disabled, self._stop.disabled = busy, not busy
        if self._shown is None or not self._shown.steps:
            return
        self._strip.visible = True
        last = len(self._shown.steps) - 1
        late = (time.monotonic() - self._stepped_at) * 1000 >= STEP_MS
        if self._step < last and late:
            self._show_step(self._step + 1)
        if self._step < last and self._document is not None:
            self._document.add_timeout_callback(self._draw, STEP_MS)

    def _show_step(self, step: int) -> None:
        assert self._shown is not None
        self._step, self._stepped_at = step, time.monotonic()
        entries, last = self._shown.steps[step], len(self._shown.steps) - 1
        self._slider.param.update(end=max(last, 1), disabled=last == 0, value=step)
        if self._pipe is None:
            self._pipe = hv.streams.Pipe(data=entries)
            self._picture.objects = [
                drawing(hv.DynamicMap(lambda data: plots.context_lens(data), streams=[self._pipe]))
            ]
        else:
            self._pipe.send(entries)
        size = int((entries["stop"] - entries["start"]).filter(entries["lod"] == 1).max() or 0)
        self._legend.object = str(level_legend(entries["lod"].unique().to_list(), size or 32))
        edits = entries.filter(pl.col("edit") != "")
        done = "; ".join(
            f"{kind}s {part.height}" for (kind,), part in edits.group_by("edit", maintain_order=True)
        )
        self._step_text.object = str(
            Markup('<p class="muted">Look {} of {}: {} entries, {} positions; {}</p>').format(
                step + 1,
                last + 1,
                len(entries),
                count(entries["cost_positions"].sum()),
                done or "the final context",
            )
        )

    def _slid(self, step: int) -> None:
        if self._shown is not None and step != self._step and step < len(self._shown.steps):
            self._show_step(step)


class _Telling:
    """An error inside becomes a sentence of the view; without one, the last sentence goes."""

    def __init__(self, pane: pn.pane.HTML):
        self._pane = pane

    def __enter__(self) -> None:
        self._pane.visible = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, MegaContextError):
            self._pane.param.update(object=str(problem(str(error))), visible=True)
            return True
        return False
