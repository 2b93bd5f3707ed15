"""A session that goes on: it hears, focuses every few blocks or when it is asked, and speaks, at constant cost a token.

One working context lives from refocus to refocus, with the allocator's memory and the keys and values that are still
true. Tokens that are heard or said go into the memory; the context takes them up raw and gives up older detail for
them. A block's worth of room is always kept free, so that at no step of decoding the model attends to more positions
than the budget. While the whole history fits, the context is plain tokens and the model is plain attention.

What is said does not depend on how it is asked for: token by token, in one stretch, or after a break with `save` and
`restore` between. A question is a look aside: the next word goes on from where the session was before it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacontext.errors import BudgetError, ConfigError, ShapeError
from megacontext.focus import NO_RULES, AllocatorState, FocusStep, Rules, WorkingContext, fit, refocus
from megacontext.runtime.context_cache import ContextCache, NextToken, ReadReport
from megacontext.runtime.edit_memory import Edits, with_refocus
from megacontext.runtime.explain import EntryExplanation, explain
from megacontext.runtime.generation import check_drawing, check_ids
from megacontext.runtime.layout import LAYOUTS, context_room, most_rows
from megacontext.runtime.live_state import LiveState, read_state, write_state
from megacontext.runtime.session import Session
from megacontext.runtime.speech import Manner, Speech
from megacontext.runtime.tracing import record_focus
from megacontext.scoring import Question
from megacontext.telemetry import NullTelemetry, Telemetry

_NOTHING = np.zeros(0, dtype=np.int32)
_MOVED_BY_A_QUESTION = ("context", "allocator", "edits", "covered", "refocused", "_numbers", "_focused_at")


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """How a session goes on."""

    layout: str = "timeline"
    """Order of rows: see `layout`."""
    refocus_blocks: int = 2
    """Blocks that fill between refocuses; earlier where the room that is left ends, or a question is asked."""
    question_tokens: int = 32
    """How many of the last tokens stand for the question while nobody asks one."""
    slack: float = 0.25
    """Share of the budget that is given up at once when tokens that have come need room, and left to those that come:
    the keys and values behind a fold have to be made again, so folding is done seldom and together. A question may
    use it all."""
    cover_lag: float = 0.5
    """How far the covered part of a cover-first layout may fall behind, in budgets, before it is renewed."""
    max_steps: int = 4
    """Focus steps of a refocus between questions; for a question the session's own limit holds."""
    scorer: str = ""
    """Who scores while the session goes on; empty = the session's."""

    def __post_init__(self) -> None:
        LAYOUTS.get(self.layout)
        if not (0 <= self.slack < 1 and self.cover_lag >= 0):
            raise ConfigError(
                f"live.slack must lie in [0, 1) and cover_lag be 0 or above, got {self.slack} and {self.cover_lag}"
            )
        if min(self.refocus_blocks, self.question_tokens, self.max_steps) < 1:
            raise ConfigError(
                "live.refocus_blocks, question_tokens and max_steps must be at least 1, got "
                f"{self.refocus_blocks}, {self.question_tokens} and {self.max_steps}; raise it"
            )


@dataclass(frozen=True)
class Refocus:
    """One refocus of a live session."""

    number: int
    num_tokens: int
    """Length of the history then."""
    steps: tuple[FocusStep, ...]
    """Empty where the whole history fitted."""
    fitted: int
    """Entries that gave way to tokens that had come, before anything was scored."""


class LiveSession:
    """A reader of `session`'s memory who hears and speaks. The memory must be open for writing to do either."""

    def __init__(
        self,
        session: Session,
        config: LiveConfig | None = None,
        *,
        rules: Rules = NO_RULES,
        seed: int = 0,
        telemetry: Telemetry | None = None,
    ):
        self._telemetry = telemetry or NullTelemetry()
        self.session, self.config, self.rules = session, config or LiveConfig(), rules
        self.memory, self.base = session.memory, session.bundle.base
        self.budget = session.config.budget
        # Opened gists keep a place in the other layout.
        least = 2 * self.memory.block_size + (self.config.layout != "timeline")
        if self.budget < least:
            raise BudgetError(
                f"the budget of a session that goes on must hold a block of {self.memory.block_size} tokens that was "
                f"read and one that is said, {least} positions, got {self.budget}; raise focus.budget"
            )
        self._slack = int(self.config.slack * self.budget)
        self.context = WorkingContext.raw(0, self.memory.block_size)
        self.allocator = AllocatorState()
        self.cache = ContextCache(self.base, self.budget)
        self.chance = torch.Generator().manual_seed(seed)
        self.refocused: Refocus | None = None
        """The last refocus."""
        self.report: ReadReport | None = None
        """The last reading."""
        self.edits: Edits = {}
        """What was done to the nodes that are shown and to those above them."""
        self.covered = 0
        """Tokens that the stable part of a cover-first layout stands for."""
        self._numbers = 0
        self._focused_at = 0
        """Length of the history at the last refocus."""
        self._revision = self.memory.revision
        self._speech: Speech | None = None
        self._before: dict[str, Any] | None = None
        """Where the session was before a question, until it goes on."""
        if self.memory.num_tokens:
            self.refocus()

    # Hearing.

    def observe(self, heard: str | np.ndarray) -> None:
        """Take text or token ids into the memory and, as they fill blocks, refocus. Ends what is being said.

        Raises ShapeError for ids that the model does not know, and what the memory raises; nothing was heard then.
        Raises BudgetError where the budget does not hold the coarsest cover any more; it was heard nevertheless.
        """
        self._go_on()
        self.session.observe(heard if isinstance(heard, str) else self._checked(heard))
        self.catch_up()

    def catch_up(self) -> None:
        """Take what has come into the context; refocus if it finished enough blocks or needs room."""
        size, num_tokens = self.memory.block_size, self.memory.num_tokens
        if num_tokens // size - self._focused_at // size < self.config.refocus_blocks:
            context = self.context.extend(num_tokens)
            if most_rows(context, self.config.layout) + size - num_tokens % size <= self.budget:
                self.context = context
                return
        self._refocus()

    def _go_on(self) -> None:
        """End what is being said, and go back to where the session was before a question."""
        if self._speech is not None:
            self._speech.close()
            self._speech = None
        if self._before is not None:
            vars(self).update(self._before)
            self._before = None

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        """Raises ShapeError unless `ids` are a row of ids that the model knows."""
        row = np.asarray(ids)
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise ShapeError(
                f"token ids are a row of integers, got {row.dtype} {row.shape}; encode the text first"
            )
        check_ids(row, self.base)
        return row.astype(np.int32)

    # Focusing.

    def refocus(self, prompt: np.ndarray | None = None, *, room_tokens: int | None = None) -> Refocus:
        """Bring the context up to the history and choose its detail anew, for `prompt` (P,) or for the last tokens.

        `room_tokens` is what is kept free behind the prompt; by default what comes up to the next refocus. Ends what is
        being said. Raises BudgetError if the budget does not hold the prompt, that room and the coarsest cover, or not
        what is pinned.
        """
        self._go_on()
        return self._refocus(None if prompt is None else self._checked(prompt), room_tokens)

    def _refocus(self, prompt: np.ndarray | None = None, room_tokens: int | None = None) -> Refocus:
        memory, size = self.memory, self.memory.block_size
        asked, num_tokens = 0 if prompt is None else len(prompt), memory.num_tokens
        free = size if room_tokens is None else room_tokens
        room = self.budget - asked - free
        if num_tokens <= room:
            whole = WorkingContext.raw(num_tokens, size)
            return self._done(whole, (), whole)
        if room_tokens is None:
            # Of a small budget not more than a quarter lies idle: then it is refocused when a block is full.
            more = min(self.config.refocus_blocks, self.budget // (4 * size)) - 1
            room -= size * max(0, more)
        cover = WorkingContext.cover(num_tokens, size)
        room = context_room(room, cover, self.config.layout)
        if room < max(size, cover.cost):
            raise BudgetError(
                f"the budget must hold the prompt of {asked} tokens and {free} more with one block of {size} and with "
                f"the coarsest cover of {num_tokens:,} tokens, which takes {cover.cost} positions, got {self.budget}; "
                "raise focus.budget"
            )
        context = self._grown(num_tokens, room)
        protect = self.session.config.allocator.protect_recent_tokens
        fitted = self._fitted(context, room, protect)
        number = self._numbers
        score = self.session.scorer(self.config.scorer or None).ask(
            Question(number=number, ids=self._question(prompt), excluded=self.rules.excluded)
        )
        if prompt is None:
            # What was given up at once is for tokens that come: opened again, it would be given up again with the next.
            room = max(fitted.cost, room - self._slack)
        steps = refocus(
            fitted,
            score,
            room,
            self.allocator,
            self.session.config.allocator,
            self.config.max_steps if prompt is None else self.session.config.max_steps,
            self.rules,
        )
        self.allocator = steps[-1].state
        if memory.writable:
            self.session.count_accesses(steps)
        return self._done(fitted, tuple(steps), context)

    def _grown(self, num_tokens: int, room: int) -> WorkingContext:
        """The context with what has come since: raw where it is little, as its coarsest cover where it is much."""
        old = self.context
        if num_tokens - old.num_tokens <= room:
            return old.extend(num_tokens)
        return WorkingContext.cover(num_tokens, old.block_size)

    def _fitted(self, context: WorkingContext, room: int, protect: int) -> WorkingContext:
        """The context within `room`; if it is not, with the slack on top, as far as there is something to give up."""
        if context.cost > room:
            try:
                return fit(context, room - self._slack, protect_recent_tokens=protect, rules=self.rules)
            except BudgetError:
                pass  # pinned spans and the cover leave no slack
        return fit(context, room, protect_recent_tokens=protect, rules=self.rules)

    def _question(self, prompt: np.ndarray | None) -> np.ndarray:
        if prompt is not None:
            return prompt
        stop = self.memory.num_tokens
        return self.memory.tokens(max(0, stop - self.config.question_tokens), stop)

    def _done(self, fitted: WorkingContext, steps: tuple[FocusStep, ...], grown: WorkingContext) -> Refocus:
        self.context = context = steps[-1].context if steps else fitted
        if context.num_tokens - self.covered > self.budget * self.config.cover_lag:
            self.covered = context.num_tokens // context.block_size * context.block_size
        slot = fitted.slot_of(grown.start)
        gave_way = fitted.lod[slot] > grown.lod
        self.refocused = Refocus(self._numbers, context.num_tokens, steps, int(gave_way.sum()))
        self.edits = with_refocus(
            self.edits, self._numbers, fitted, np.unique(slot[gave_way]), steps, context
        )
        if self._telemetry.enabled and self._before is None:
            # A question is a look aside: the next refocus has its number again.
            record_focus(
                self._telemetry,
                steps,
                history=Path(self.memory.history.label).name,
                arm=self.config.scorer or self.session.scorer_name,
                question=self._numbers,
                budget_positions=self.budget,
            )
        self._focused_at = context.num_tokens
        self._numbers += 1
        return self.refocused

    # Speaking.

    def generate(
        self, max_tokens: int, *, temperature: float = 0.0, top_k: int = 0, stop_ids: Collection[int] = ()
    ) -> Iterator[int]:
        """Token ids that follow the history, streamed; they become part of it, those of `stop_ids` excepted.

        Refocuses whenever a block is full. Goes on until `max_tokens`, or until the session hears or is asked something
        else. Raises ConfigError for an empty history, a memory that is only read or options out of range, before the
        first token is asked for.
        """
        speech = self.speak(
            Manner(max_tokens=max_tokens, temperature=temperature, top_k=top_k, stop_ids=frozenset(stop_ids))
        )
        return self._spoken(speech)

    def _spoken(self, speech: Speech) -> Iterator[int]:
        try:
            speech.begin()
            while speech.hidden is not None:
                token = speech.draw(self._logits(speech.hidden))
                if token is None:
                    return
                yield token
                speech.go_on()
        finally:
            # Also where the caller stops listening: what was said is remembered.
            speech.close()

    def speak(self, manner: Manner) -> Speech:
        """A speech that has not begun; for those who let several sessions speak side by side. Raises as `generate`."""
        if not self.memory.writable:
            raise ConfigError(
                f"speaking needs a memory opened with writable=True, {self.memory.history.label} is open for reading; "
                "ask instead, or open it so"
            )
        if not self.memory.num_tokens:
            raise ConfigError("a history of nothing has no continuation; observe something first")
        self._go_on()
        self._speech = Speech(self, manner)
        return self._speech

    def ask(
        self, question: str | np.ndarray, *, max_tokens: int = 12, stop_ids: Collection[int] | None = None
    ) -> list[int]:
        """Refocus for a question and decode an answer greedily; neither becomes part of the history.

        Ends before the end of the line, or one of `stop_ids`. Until the session goes on, `context` and `explain` show
        what was read for the question. Ends what is being said. Raises ShapeError for a question of nothing or of ids
        that the model does not know, ConfigError for `max_tokens` below 1, BudgetError where question and answer
        have no room.
        """
        check_drawing(max_tokens, 0.0, 0, 0)
        tokenizer = self.session.bundle.tokenizer
        prompt = self._checked(tokenizer.encode(question) if isinstance(question, str) else question)
        if not len(prompt):
            raise ShapeError("a question has at least one token, got none; ask something")
        if stop_ids is None:
            stop_ids = tokenizer.encode("\n").tolist()
        self._go_on()
        self._before = {name: vars(self)[name] for name in _MOVED_BY_A_QUESTION}
        self._refocus(prompt, max_tokens)
        hidden, number = self.read(prompt), self.context.num_tokens + len(prompt)
        answer: list[int] = []
        while len(answer) < max_tokens:
            token = int(self._logits(hidden).argmax())
            if token in stop_ids:
                break
            answer.append(token)
            if len(answer) < max_tokens:
                hidden = self.cache.step(self.next_token(token, number))
                number += 1
        return answer

    @property
    def is_as_read(self) -> bool:
        """Whether the memory has been neither forgotten in nor given other gists since it was read."""
        return self.memory.revision == self._revision

    def read(self, prompt: np.ndarray = _NOTHING) -> torch.Tensor:
        """Bring the cache to the context and the prompt (P,) behind it; the last hidden state (1, E)."""
        reading = self.session.read(self.context, prompt, layout=self.config.layout, covered=self.covered)
        if not self.is_as_read:
            # Something was forgotten or a gist version came: what was read is not what is there.
            self.cache.clear()
            self._revision = self.memory.revision
        began = time.perf_counter()
        self.report = self.cache.read(reading)
        if self._telemetry.enabled:
            self._telemetry.emit(
                "reading",
                refocus=self._numbers - 1,
                num_tokens=self.context.num_tokens,
                entries=len(self.context),
                positions=self.report.rows,
                budget_positions=self.budget,
                rows_reused=self.report.reused,
                rows_computed=self.report.computed,
                reused_share=self.report.reused_share,
                latency_ms=1000 * (time.perf_counter() - began),
            )
        return self.report.hidden

    @torch.inference_mode()
    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of a hidden state (1, E): float32 (V,), on the CPU, where equal seeds draw equal tokens on any device."""
        return self.base.unembed(hidden[0]).cpu()

    def next_token(self, token: int, number: int) -> NextToken:
        """`token` as the `number`-th of the history, behind what the cache holds."""
        if self.session.bundle.config.positions == "global":
            return NextToken(token, number, float(number))
        places = self.cache.rows.position
        return NextToken(token, number, float(places[-1] + 1) if len(places) else 0.0)

    def share(self, cache: ContextCache) -> None:
        """Read into `cache` from now on, an empty one with room for the budget."""
        self.cache = cache

    def explain(self) -> list[EntryExplanation]:
        """Why each entry of the context has its level, and what the model saw, in time order."""
        steps = self.refocused.steps if self.refocused is not None else ()
        step = steps[-1] if steps else None
        return explain(self.context, step, self.edits, self.memory, self.session.bundle.tokenizer)

    # Going on later.

    def save(self, path: Path) -> None:
        """Write what the next token depends on besides the memory and the model. The memory is synced first.

        May be called while the session speaks; a question that was asked last is not part of it.
        """
        if self._speech is not None:
            self._speech.save()
        self.memory.sync()
        now = vars(self) | (self._before or {})
        state = LiveState(
            context=now["context"].extend(self.memory.num_tokens),
            allocator=now["allocator"],
            edits=now["edits"],
            chance=self.chance,
            covered=now["covered"],
            focused_at=now["_focused_at"],
            refocuses=now["_numbers"],
        )
        write_state(path, state, self.memory)

    def restore(self, path: Path) -> None:
        """Go on where `save` was called, over the same memory. Raises CheckpointError, and then changes nothing."""
        state = read_state(path, self.memory)
        self._go_on()
        self.context, self.allocator, self.edits = state.context, state.allocator, state.edits
        self.chance, self.covered = state.chance, state.covered
        self._focused_at, self._numbers = state.focused_at, state.refocuses
        self.refocused = self.report = None
        self.cache.clear()
