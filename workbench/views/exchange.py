"""An exchange as a card: question, answer while it grows, and the passages that were read, with their actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import panel as pn
import panel_material_ui as pmui
from markupsafe import Markup

from workbench.stores.talk import Exchange
from workbench.text import count, duration, plain
from workbench.turns import in_turn
from workbench.views.parts import CSS, card, problem, prose, stack

PASSAGES_SHOWN = 12
_WAITING = {
    "waiting": "Another question is being answered first",
    "opening the model": "Opening the model",
    "focusing": "Looking",
    "speaking": "Speaking",
}


class Answering(Protocol):
    """What can be done about an exchange: the view that it stands in."""

    may_forget: bool

    def show_exchange(self, exchange: Exchange) -> None: ...

    def jump(self, start: int, stop: int) -> None: ...

    def pin(self, start: int, stop: int) -> None: ...

    def forget(self, start: int, stop: int) -> bool: ...


class ExchangeCard:
    """One question, its answer, and what was read for it."""

    def __init__(self, view: Answering, exchange: Exchange):
        self._view, self._exchange = view, exchange
        self._answer, self._facts = prose(""), prose("")
        self._passages = stack()
        self._drawn: tuple[object, ...] = ()
        looks = pmui.Button(label="Show its looks", variant="text", size="small", margin=(0, 0))
        looks.on_click(lambda _: in_turn(lambda: view.show_exchange(exchange)))
        question = Markup('<p class="lead quote">{}</p>').format(plain(exchange.question))
        self.panel = card(
            question,
            "",
            self._answer,
            pn.Row(self._facts, looks, sizing_mode="stretch_width"),
            self._passages,
        )

    def draw(self) -> None:
        """Show what has come of it."""
        exchange = self._exchange
        now = (exchange.state, len(exchange.answer), len(exchange.steps))
        if now == self._drawn:
            return
        self._drawn = now
        self._answer.object = str(self._answered())
        self._facts.object = str(self._told())
        if exchange.ended and exchange.passages and not self._passages.objects:
            self._passages.objects = [
                _PassageLine(self._view, passage).panel for passage in exchange.passages[:PASSAGES_SHOWN]
            ]

    def _answered(self) -> Markup:
        exchange = self._exchange
        if exchange.state == "failed":
            return problem(exchange.problem)
        said = Markup('<p class="quote answer">{}</p>').format(plain(exchange.answer))
        if exchange.state == "stopped":
            return said + Markup('<p class="muted">Stopped.</p>')
        if exchange.ended:
            return said if exchange.answer else Markup('<p class="muted">It said nothing.</p>')
        return said + Markup('<p class="state running"><i></i>{} …</p>').format(_WAITING[exchange.state])

    def _told(self) -> Markup:
        exchange = self._exchange
        if exchange.state != "done":
            return Markup("")
        more = len(exchange.passages) - PASSAGES_SHOWN
        rest = f"; {more} more passages are not listed" if more > 0 else ""
        return Markup(
            '<p class="muted">{} of {} positions stood for {} tokens; {}, {}. Read word for word{}:</p>'
        ).format(
            count(exchange.positions), count(exchange.budget), count(exchange.tokens), _looks(len(exchange.steps)),
            duration(exchange.seconds), rest,
        )  # fmt: skip


def _looks(number: int) -> str:
    return "no look, for all of it fitted" if not number else f"{number} look{'s' * (number > 1)}"


class _PassageLine:
    """A passage that was read: its text, and where it leads."""

    def __init__(self, view: Answering, passage: dict[str, Any]):
        start, stop = int(passage["start"]), int(passage["stop"])
        where = passage["source"] or f"tokens {start:,}–{stop:,}"
        text = Markup('<p class="muted">{}</p><p class="quote passage">{}</p>').format(
            plain(where, 200), plain(passage["text"], 1_200)
        )
        tree = pmui.Button(label="Show in the tree", variant="text", size="small", margin=0)
        tree.on_click(lambda _: in_turn(lambda: view.jump(start, stop)))
        pin = pmui.Button(label="Pin", variant="text", size="small", margin=0)
        pin.on_click(lambda _: in_turn(lambda: view.pin(start, stop)))
        actions: list[Any] = [tree, pin]
        if view.may_forget:
            forget = Confirmed(
                "Forget", f"Forget tokens {start:,}–{stop:,} for good", lambda: self._forgotten(start, stop)
            )
            actions.append(forget.panel)
        self._view, self._text = view, prose(text)
        self.panel = pn.Column(
            self._text, pn.Row(*actions, margin=0), sizing_mode="stretch_width", margin=(2, 0)
        )

    def _forgotten(self, start: int, stop: int) -> None:
        if self._view.forget(start, stop):
            self._text.object = str(
                Markup('<p class="muted">Tokens {} to {} are forgotten.</p>').format(start, stop)
            )
            self.panel[1].visible = False


class Confirmed:
    """A button that asks once more before it does something."""

    def __init__(self, label: str, question: str, act: Callable[[], None]):
        self._act = act
        self._first = pmui.Button(label=label, variant="text", color="error", size="small", margin=0)
        self._yes = pmui.Button(
            label=question, variant="contained", color="error", size="small", margin=(0, 6)
        )
        self._no = pmui.Button(label="Leave it", variant="text", size="small", margin=0)
        self._done = pn.pane.HTML("", stylesheets=[CSS], margin=(6, 0))
        self.panel = pn.Row(self._first, self._yes, self._no, self._done, margin=0)
        self._first.on_click(lambda _: in_turn(lambda: self._asking(True)))
        self._no.on_click(lambda _: in_turn(lambda: self._asking(False)))
        self._yes.on_click(lambda _: in_turn(self._confirmed))
        self._asking(False)

    def said(self, words: str) -> None:
        """Tell what came of it."""
        self._done.object = str(Markup('<span class="muted">{}</span>').format(words))

    def _confirmed(self) -> None:
        self._asking(False)
        self._act()

    def _asking(self, asking: bool) -> None:
        self._first.visible = not asking
        self._yes.visible = self._no.visible = asking
