"""A conversation with a memory: questions, what was looked at for each, and answers that grow token by token.

One question at a time is answered in this process, in a thread beside the pages, however many pages ask: two models at
work would halve each other's speed. What a page hears of it are its own exchanges, which change while it looks.

Asking changes nothing: a question and its answer are no part of the history. `note` and `forget` are what writes, and
only to a memory that the library opens for writing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from megacontext.errors import ConfigError, MegaContextError
from megacontext.tree.documents import now
from workbench.stores.library import Library

if TYPE_CHECKING:
    from megacontext.focus import FocusStep
    from megacontext.runtime.session import Session

EXCHANGES_KEPT = 50
"""Of one page; older ones leave it."""
LONGEST_QUESTION = 4_000
"""Characters. A budget is a few hundred positions, and what a question takes is lost to the history."""
ANSWER_TOKENS = 48
BUDGETS = {True: 640, False: 256}
"""Positions, for a frozen decoder and for a bundle, where nobody says another."""

_AT_WORK = ThreadPoolExecutor(max_workers=1, thread_name_prefix="talk")

State = Literal["waiting", "opening the model", "focusing", "speaking", "done", "stopped", "failed"]
ENDED = ("done", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a question is to be answered."""

    memory: str
    """Its name in the library."""
    model: str
    scorer: str = "lensnet"
    budget: int = 0
    """Positions; 0 for the model's usual."""
    pinned: tuple[tuple[int, int], ...] = ()
    """Tokens that stay in view, whatever is asked."""


@dataclass
class Exchange:
    """A question and what came of it so far."""

    question: str
    asking: Asking
    state: State = "waiting"
    steps: list[pl.DataFrame] = field(default_factory=list)
    """Entries of the working context at each look, with the columns of telemetry's kind `entry`."""
    answer: str = ""
    passages: list[dict[str, Any]] = field(default_factory=list)
    """What was read word for word: start, stop, text, source."""
    positions: int = 0
    budget: int = 0
    tokens: int = 0
    seconds: float = 0.0
    problem: str = ""
    """The sentence of a question that failed."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class _Stopped(Exception):
    """Nobody wants the rest of the answer."""


class Talk:
    """The exchanges of one page. `told` is called from another thread whenever one of them has changed."""

    def __init__(self, library: Library, told: Callable[[], None] = lambda: None):
        self.library, self._told = library, told
        self.exchanges: list[Exchange] = []
        self._stop = threading.Event()
        self._session: tuple[tuple[object, ...], Session] | None = None

    def find_models(self, memory: str, more: list[str]) -> Future[list[str]]:
        """Names of the models that read a memory, `more` first. In the other thread: the first one brings torch."""

        def find() -> list[str]:
            found = self.library.parts.fitting(self.library.memory(memory).memory, more)
            self._told()
            return found

        return _AT_WORK.submit(find)

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self.exchanges) and not self.exchanges[-1].ended

    def ask(self, question: str, asking: Asking) -> Exchange:
        """Begin to answer. Raises ConfigError for a question of nothing, one that is too long, or while one is open."""
        if not question.strip():
            raise ConfigError("a question must hold text, got nothing but blanks; ask something")
        if len(question) > LONGEST_QUESTION:
            raise ConfigError(
                f"a question has at most {LONGEST_QUESTION:,} characters, got {len(question):,}; "
                "keep a longer text as a note and ask about it"
            )
        if self.busy:
            raise ConfigError("one question is answered at a time; stop it, or wait for its end")
        exchange = Exchange(question.strip(), asking)
        self.exchanges = [*self.exchanges[-EXCHANGES_KEPT + 1 :], exchange]
        self._stop.clear()
        _AT_WORK.submit(self._answer, exchange)
        return exchange

    def stop(self) -> None:
        """Leave the answer that is on its way as it is."""
        self._stop.set()

    def note(self, memory: str, text: str, model: str) -> int:
        """Keep a text at the end of the memory as a document; its number. Raises what opening and writing raise."""
        if not text.strip():
            raise ConfigError("a note must hold text, got nothing but blanks; write something")
        store = self._writable(memory, model)
        ids = self.library.parts.named(model).tokenizer.encode(f"{text.strip()}\n")
        with store.lock, store.memory.document(f"note of {now()}", tags=("note",), time=now()) as document:
            store.memory.append(ids)
            return document.number

    def forget(self, memory: str, start: int, stop: int, model: str) -> None:
        """Take tokens [start, stop) out of the memory for good; what stood around them keeps its place."""
        from megacontext.tree import refresh
        from megacontext.tree.forgetting import forget_span

        store = self._writable(memory, model)
        (filler,) = self.library.parts.named(model).tokenizer.encode("\n").tolist()
        with store.lock:
            forget_span(store.memory, start, stop, filler)
            refresh.sweep(store.memory, store.memory.version.number, store.memory.encoder)

    def _writable(self, memory: str, model: str) -> Any:
        if self.busy:
            raise ConfigError("a memory is written between answers; stop this one, or wait for its end")
        self._session = None  # it reads through what is about to be closed
        return self.library.writable_memory(memory, model)

    # In the other thread.

    def _answer(self, exchange: Exchange) -> None:
        try:
            self._go_on(exchange, "opening the model")
            self._tell(exchange)
            self._go_on(exchange, "done")
        except _Stopped:
            exchange.state = "stopped"
        except MegaContextError as problem:
            exchange.problem, exchange.state = str(problem), "failed"
        except Exception as problem:  # a page must not wait for ever on a mistake of ours
            exchange.problem, exchange.state = f"{type(problem).__name__}: {problem}", "failed"
        self._told()

    def _tell(self, exchange: Exchange) -> None:
        from megacontext.focus.rules import Rules
        from megacontext.runtime.citing import tell
        from megacontext.runtime.tracing import entry_rows

        session = self._session_for(exchange.asking)
        exchange.budget, exchange.tokens = session.config.budget, session.memory.num_tokens
        self._go_on(exchange, "focusing")

        def looked(step: FocusStep) -> None:
            asking, number = exchange.asking, len(exchange.steps)
            exchange.steps.append(entry_rows(step, asking.memory, asking.scorer, 0, number))
            self._go_on(exchange, "focusing")

        def said(piece: str) -> None:
            exchange.answer += piece
            self._go_on(exchange, "speaking")

        told = tell(
            session, exchange.question, exchange.asking.scorer, max_tokens=ANSWER_TOKENS,
            rules=Rules(pinned=exchange.asking.pinned), looked=looked, said=said,
        )  # fmt: skip
        exchange.answer, exchange.passages = told["answer"], told["passages"]
        exchange.positions, exchange.seconds = told["positions"], told["seconds"]

    def _go_on(self, exchange: Exchange, state: State) -> None:
        if self._stop.is_set():
            raise _Stopped
        exchange.state = state
        self._told()

    def _session_for(self, asking: Asking) -> Session:
        """The session of the last question if it is the same, so that indices over the history are kept."""
        from megacontext.runtime.frozen.reader import FrozenReader
        from megacontext.runtime.session import FocusConfig, Session

        parts = self.library.parts.named(asking.model)
        memory = self.library.memory(asking.memory).memory
        budget = asking.budget or BUDGETS[isinstance(parts, FrozenReader)]
        key = id(parts), id(memory), budget
        if self._session is None or self._session[0] != key:
            self._session = key, Session(parts, memory, FocusConfig(budget=budget))
        return self._session[1]
