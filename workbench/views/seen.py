"""What exactly did the model see at this step: every word that it read, and what it was only told of by a gist?"""

from __future__ import annotations

import panel as pn
import polars as pl
from markupsafe import Markup

from megacontext.errors import MegaContextError
from workbench.desk import Desk
from workbench.palette import BAD, GOOD, NEUTRAL, level_colour, level_label
from workbench.state import Selection, query_of
from workbench.stores.seen import Passage, Share, Shown, budget_shares, exact_text, passage, raw_runs, shown
from workbench.stores.steps import question_positions
from workbench.text import count, percent, plain
from workbench.views.asked import not_traced
from workbench.views.parts import card, empty, prose, stack
from workbench.views.passages import Passages
from workbench.views.step_words import step_line
from workbench.views.stepping import Stepper
from workbench.views.texts import texts_of


class SeenView:
    """The text of the chosen step, the budget by what it went to, and the way from each passage into the tree."""

    needs = "run"

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self.desk, self.store, self.selection = desk, desk.run, desk.selection
        self._stepper = Stepper(desk.selection, "seen")
        self._step_text, self._budget, self._said = prose(""), prose(""), prose("")
        self._passages = Passages(self._opened, self._went)
        self._holder = stack(self._said)
        self._body = stack()
        self._shown: tuple[object, ...] = ()
        self._step_card = card("Step", "", self._stepper.panel(), self._step_text, self._budget)
        self._text_card = card(
            "What the model saw", "Bordered text was read word for word, in this order. A gist is one vector: click "
            "its line to see the passage that it stands for, which the model did not read.",
            self._holder,
        )  # fmt: skip
        self.refresh()

    def panel(self) -> pn.viewable.Viewable:
        return self._body

    def tick(self) -> None:
        """Nothing waits."""

    def refresh(self) -> None:
        chosen = self.selection
        entries = self.store.entries(chosen.history, chosen.arm, chosen.question)
        if entries.is_empty():
            self._shown = ()
            self._body.objects = [card("What the model saw", "", prose(not_traced(self.store)))]
            return
        last = int(entries["step"].max())
        step = chosen.step if 0 <= chosen.step <= last else last
        self._stepper.show(step, last)
        wanted = (chosen.history, chosen.arm, chosen.question, step, len(entries), self.desk.memory_name)
        if wanted == self._shown:
            return
        self._shown = wanted
        now = entries.filter(pl.col("step") == step)
        self._step_text.object = str(step_line(now, step, last))
        self._show_budget(now)
        self._show_text(now)
        self._body.objects = [self._step_card, self._text_card]

    def _show_budget(self, now: pl.DataFrame) -> None:
        chosen, store = self.selection, self.store
        steps = store.focus_steps(chosen.history, chosen.arm, chosen.question)
        answers = store.answers(chosen.history, chosen.question).filter(pl.col("arm") == chosen.arm)
        budget = int(steps["budget_positions"].max() or now["cost_positions"].sum())
        shares = budget_shares(now, budget, question_positions(steps, answers))
        self._budget.object = str(budget_bar(shares, budget, store.block_size or 0))

    def _show_text(self, now: pl.DataFrame) -> None:
        texts = texts_of(self.desk)
        if isinstance(texts, str):
            self._say(empty("The text cannot be shown", plain(texts)))
            return
        try:
            entries = shown(now, texts.memory, texts.vocabulary)
        except MegaContextError as problem:
            self._say(empty("The text cannot be shown", plain(str(problem))))
            return
        prompt = self._prompt()
        self._passages.param.update(
            markup=str(context_markup(entries, self.selection, prompt)),
            text=exact_text(entries) + (prompt or ""),
        )
        self._said.object = str(self._order())
        self._holder.objects = [self._said, self._passages]

    def _say(self, sentence: Markup) -> None:
        self._said.object = str(sentence)
        self._holder.objects = [self._said]

    def _prompt(self) -> str | None:
        chosen = self.selection
        rows = self.store.questions(chosen.history).filter(pl.col("question") == chosen.question)["prompt"]
        return rows[0] if len(rows) else None

    def _order(self) -> Markup:
        """What is to be known about the order in which it was read."""
        layout = self.store.recipe.get("focus", {}).get("layout", "timeline")
        if layout == "timeline":
            return Markup("")
        return Markup(
            '<p class="muted">Shown in the order of the history. This run\'s layout, {}, put the gists first.</p>'
        ).format(plain(layout, 40))

    def _opened(self, lod: int, index: int) -> str:
        texts = texts_of(self.desk)
        if isinstance(texts, str):
            return str(plain(texts))
        try:
            return str(passage_markup(passage(lod, index, texts.memory, texts.vocabulary), self.selection))
        except MegaContextError as problem:
            return str(plain(str(problem)))

    def _went(self, node: str) -> None:
        self.selection.param.update(node=node, view="tree")


def budget_bar(shares: list[Share], budget: int, block_size: int) -> Markup:
    """The budget as a bar, by what it went to, and the same in words."""
    names = {"question": "question", "raw": "raw tokens", "free": "free"}
    colours = {"question": NEUTRAL, "raw": level_colour(0), "free": "transparent"}
    parts, said = Markup(""), Markup("")
    for share in shares:
        colour = level_colour(share.lod) if share.kind == "gist" else colours[share.kind]
        name = (
            level_label(share.lod, block_size).replace(" · ", " gists, of ")
            if share.kind == "gist"
            else names[share.kind]
        )
        told = f"{name}: {count(share.positions)} positions, {percent(share.positions / budget if budget else 0, 0)}"
        parts += Markup('<i style="flex:{} 1 0;background:{}" title="{}"></i>').format(
            share.positions, colour, told
        )
        said += Markup('<span><i class="chip {}" style="background:{}"></i>{} <b>{}</b></span>').format(
            share.kind, colour, name, count(share.positions)
        )
    return Markup(
        '<div class="budget" role="img" aria-label="budget of {} positions">{}</div><div class="legend">{}</div>'
    ).format(count(budget), parts, said)


def context_markup(entries: list[Shown], selection: Selection, prompt: str | None) -> Markup:
    """Every entry in time order, and the question behind them."""
    parts = [
        _gist(run[0], selection, run[0].score) if run[0].lod else _raw(run, selection)
        for run in raw_runs(entries)
    ]
    asked = Markup(
        '<div class="asked" style="--level:{}"><p class="where">the question, after all of this</p>'
        '<div class="words">{}</div></div>'
    ).format(NEUTRAL, _whole(prompt) if prompt else "–")
    return Markup("").join([*parts, asked])


def passage_markup(opened: Passage, selection: Selection) -> Markup:
    """What stands inside a gist that was opened."""
    note = Markup("<p>Not read by the model: it saw one vector in place of these {} tokens.</p>").format(
        count(opened.stop - opened.start)
    )
    if not opened.children:
        return note + Markup('<div class="words">{}</div>').format(_whole(opened.text))
    return note + Markup("").join(_gist(child, selection, None) for child in opened.children)


def _raw(run: list[Shown], selection: Selection) -> Markup:
    first, last = run[0], run[-1]
    words = Markup("").join(
        Markup("<span{}>{}</span>").format(_shade(entry.score), _whole(entry.text)) for entry in run
    )
    return Markup(
        '<div class="run" style="--level:{}"><p class="where"><i class="chip" style="background:{}"></i>{} · read word '
        'for word{}</p><div class="words">{}</div></div>'
    ).format(
        level_colour(0), level_colour(0), _link(first, selection, first.start, last.stop),
        _sources(tuple(dict.fromkeys(source for entry in run for source in entry.sources))), words,
    )  # fmt: skip


def _gist(entry: Shown, selection: Selection, score: float | None) -> Markup:
    node = f"{entry.lod}:{entry.index}"
    return Markup(
        '<div class="gist" style="--level:{}"><div class="line"><button class="fold" type="button" '
        'aria-expanded="false" data-node="{}"{}><i class="chip" style="background:{}"></i><b>L{}</b>'
        '<span class="beginning">{} …</span></button>{}{}</div><div class="inside" data-inside="{}" hidden></div></div>'
    ).format(
        level_colour(entry.lod), node, _shade(score), level_colour(entry.lod), entry.lod,
        plain(" ".join(entry.text.split()), 200), _link(entry, selection, entry.start, entry.stop),
        _sources(entry.sources), node,
    )  # fmt: skip


def _link(entry: Shown, selection: Selection, start: int, stop: int) -> Markup:
    """A place in the history, as a link to its node in the tree."""
    # An unfinished last block has no node yet: its first token has.
    node = f"{entry.lod}:{entry.index}" if entry.lod else f"0:{entry.start}"
    there = {key: getattr(selection, key) for key in selection.KEYS} | {"view": "tree", "node": node}
    return Markup('<a href="{}" data-go="{}">tokens {:,}–{:,}</a>').format(query_of(there), node, start, stop)


def _sources(sources: tuple[str, ...]) -> Markup:
    if not sources:
        return Markup("")
    more = "" if len(sources) == 1 else f" and {len(sources) - 1} more"
    return Markup(' <span class="source">· {}{}</span>').format(plain(sources[0], 120), more)


def _shade(score: float | None) -> Markup:
    """A faint ground by score, seen where the reader wants it."""
    if score is None:
        return Markup("")
    return Markup(' data-score="{:+.2f}" title="score {:+.2f}" style="--tint:{};--share:{:.0f}%"').format(
        score, score, GOOD if score > 0 else BAD, 34 * min(abs(score), 1.0)
    )


def _whole(text: str) -> Markup:
    """Text that is never cut: it is what was read."""
    return plain(text, max_characters=max(len(text), 1))
