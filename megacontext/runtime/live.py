"""A session that goes on: it hears, focuses every K tokens or when it is asked, and speaks, at constant cost a token.

One working context lives from refocus to refocus, with the allocator's memory and the keys and values that are still
true. Tokens that are heard or said go into the memory; the context takes them up raw and gives up older detail for
them. A block's worth of room is always kept free, so that at no step of decoding the model attends to more positions
than the budget. While the whole history fits, the context is plain tokens and the model is plain attention.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from megacontext.errors import BudgetError, CheckpointError, ConfigError
from megacontext.focus import NO_RULES, AllocatorState, FocusStep, Rules, WorkingContext, fit, refocus
from megacontext.runtime.context_cache import ContextCache, ReadReport
from megacontext.runtime.explain import EntryExplanation, explain
from megacontext.runtime.generation import check_drawing, draw
from megacontext.runtime.layout import LAYOUTS, context_room
from megacontext.runtime.reading import read
from megacontext.runtime.run import write_json
from megacontext.runtime.session import Session
from megacontext.scoring import Question
from megacontext.spans import Node

STATE_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """How a session goes on."""

    layout: str = "timeline"
    """Order of rows: see `layout`."""
    question_tokens: int = 32
    """How many of the last tokens stand for the question while nobody asks one."""
    slack: float = 0.25
    """Share of the budget that is given up at once when tokens that have come need room: the keys and values behind a
    fold have to be made again, so folding is done seldom and together."""
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
        if min(self.question_tokens, self.max_steps) < 1:
            raise ConfigError(
                "live.question_tokens and max_steps must be at least 1, got "
                f"{self.question_tokens} and {self.max_steps}; raise it"
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
        self, session: Session, config: LiveConfig | None = None, *, rules: Rules = NO_RULES, seed: int = 0
    ):
        self.session, self.config, self.rules = session, config or LiveConfig(), rules
        self.memory, self.base = session.memory, session.bundle.base
        self.budget = session.config.budget
        self.context = WorkingContext.raw(0, self.memory.block_size)
        self.allocator = AllocatorState()
        self.cache = ContextCache(self.base, self.memory.block_size, self.budget)
        self.chance = torch.Generator().manual_seed(seed)
        self.refocused: Refocus | None = None
        """The last refocus."""
        self.report: ReadReport | None = None
        """The last reading."""
        self.edits: dict[Node, list[tuple[int, str]]] = {}
        """What was done to the nodes that are shown and to those above them: number of the refocus, and the edit."""
        self.covered = 0
        """Tokens that the stable part of a cover-first layout stands for."""
        self._numbers = 0
        self._revision = self.memory.revision
        if self.memory.num_tokens:
            self.refocus()

    # Hearing.

    def observe(self, heard: str | np.ndarray) -> None:
        """Take text or token ids into the memory and, as they fill blocks, refocus. Raises what the memory raises."""
        before = self.memory.num_tokens // self.memory.block_size
        self.session.observe(heard)
        if self.memory.num_tokens // self.memory.block_size > before or not self._has_room():
            self.refocus()
        else:
            self.context = self.context.extend(self.memory.num_tokens)

    def _has_room(self) -> bool:
        """Whether the context can take up what has come and still has a block's room."""
        grown = self.memory.num_tokens - self.context.num_tokens
        return self.context.cost + grown + self.memory.block_size <= self._room(0)

    # Focusing.

    def refocus(self, prompt: np.ndarray | None = None, *, room_tokens: int | None = None) -> Refocus:
        """Bring the context up to the history and choose its detail anew, for `prompt` (P,) or for the last tokens.

        `room_tokens` is what is kept free behind the prompt; a block by default. Raises BudgetError if the budget does
        not hold the prompt, that room and the coarsest cover.
        """
        memory, size = self.memory, self.memory.block_size
        asked = np.zeros(0, dtype=np.int32) if prompt is None else prompt
        room = self.budget - len(asked) - (size if room_tokens is None else room_tokens)
        if memory.revision != self._revision:
            # Something was forgotten or a gist version came: what was read is not what is there.
            self.cache.clear()
            self._revision = memory.revision
        num_tokens = memory.num_tokens
        if num_tokens <= room:
            whole = WorkingContext.raw(num_tokens, size)
            return self._done(whole, (), 0)
        room = context_room(room, WorkingContext.cover(num_tokens, size), self.config.layout)
        context = self._grown(num_tokens, room)
        protect = self.session.config.allocator.protect_recent_tokens
        fitted = self._fitted(context, room, protect)
        number = self._numbers
        score = self.session.scorer(self.config.scorer or None).ask(
            Question(number=number, ids=self._question(prompt))
        )
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
        return self._done(steps[-1].context, tuple(steps), len(context) - len(fitted))

    def _grown(self, num_tokens: int, room: int) -> WorkingContext:
        """The context with what has come since: raw where it is little, as its coarsest cover where it is much."""
        old = self.context
        if num_tokens - old.num_tokens <= room:
            return old.extend(num_tokens)
        return WorkingContext.cover(num_tokens, old.block_size)

    def _fitted(self, context: WorkingContext, room: int, protect: int) -> WorkingContext:
        """The context within `room`; if it is not, with the slack on top, as far as there is something to give up."""
        if context.cost > room:
            target = room - int(self.config.slack * self.budget)
            try:
                return fit(context, target, protect_recent_tokens=protect, rules=self.rules)
            except BudgetError:
                pass  # pinned spans and the cover leave no slack
        return fit(context, room, protect_recent_tokens=protect, rules=self.rules)

    def _question(self, prompt: np.ndarray | None) -> np.ndarray:
        if prompt is not None:
            return prompt
        stop = self.memory.num_tokens
        return self.memory.tokens(max(0, stop - self.config.question_tokens), stop)

    def _done(self, context: WorkingContext, steps: tuple[FocusStep, ...], fitted: int) -> Refocus:
        self.context = context
        if context.num_tokens - self.covered > self.budget * self.config.cover_lag:
            self.covered = context.num_tokens // context.block_size * context.block_size
        self.refocused = Refocus(self._numbers, context.num_tokens, steps, fitted)
        self._note_edits(steps)
        self._numbers += 1
        return self.refocused

    def _note_edits(self, steps: tuple[FocusStep, ...]) -> None:
        for step in steps:
            for edit in step.edits:
                lod, index = int(step.context.lod[edit.slot]), int(step.context.index[edit.slot])
                if edit.kind == "collapse":
                    lod, index = lod + 1, index // step.context.block_size if lod else index
                self.edits.setdefault(Node(lod, index), []).append((self._numbers, edit.kind))
        if steps:
            self.edits = {node: said for node, said in self.edits.items() if self._is_near(node)}

    def _is_near(self, node: Node) -> bool:
        """Whether a node is shown, or opened into what is shown."""
        start = node.index * self.context.block_size**node.lod
        if start >= self.context.num_tokens:
            return False
        slot = int(self.context.slot_of(np.array([start]))[0])
        return max(int(self.context.lod[slot]), 1) <= node.lod

    def _room(self, prompt_tokens: int) -> int:
        return context_room(self.budget - prompt_tokens, self.context, self.config.layout)

    # Speaking.

    def generate(
        self, max_tokens: int, *, temperature: float = 0.0, top_k: int = 0, stop_ids: Collection[int] = ()
    ) -> Iterator[int]:
        """Token ids that follow the history, streamed; they become part of it, those of `stop_ids` excepted.

        Refocuses whenever a block is full. Raises ConfigError for an empty history or options out of range, before the
        first token is asked for.
        """
        check_drawing(max_tokens, temperature, top_k, 0)
        if not self.memory.num_tokens:
            raise ConfigError("a history of nothing has no continuation; observe something first")
        return self._generate(max_tokens, temperature, top_k, frozenset(stop_ids))

    def _generate(
        self, max_tokens: int, temperature: float, top_k: int, stop_ids: frozenset[int]
    ) -> Iterator[int]:
        size, said = self.memory.block_size, []
        if self.context.num_tokens < self.memory.num_tokens or not self._has_room():
            self.refocus()
        hidden = self._read(np.zeros(0, dtype=np.int32))
        number = self.context.num_tokens
        try:
            for _ in range(max_tokens):
                token = draw(self._logits(hidden), temperature, top_k, self.chance)
                if token in stop_ids:
                    return
                said.append(token)
                number += 1
                yield token
                if number % size:
                    hidden = self._step(token, number - 1)
                else:
                    self._keep(said)
                    self.refocus()
                    hidden = self._read(np.zeros(0, dtype=np.int32))
        finally:
            # Also where the caller stops listening: what was said is remembered.
            self._keep(said)
            self.context = self.context.extend(self.memory.num_tokens)

    def ask(
        self, question: str | np.ndarray, *, max_tokens: int = 12, stop_ids: Collection[int] | None = None
    ) -> list[int]:
        """Refocus for a question and decode an answer greedily; neither becomes part of the history.

        Ends before the end of the line, or one of `stop_ids`. Raises BudgetError if question and answer do not fit.
        """
        tokenizer = self.session.bundle.tokenizer
        prompt = (
            tokenizer.encode(question) if isinstance(question, str) else np.asarray(question, dtype=np.int32)
        )
        if stop_ids is None:
            stop_ids = tokenizer.encode("\n").tolist()
        self.refocus(prompt, room_tokens=max_tokens)
        hidden, number = self._read(prompt), self.context.num_tokens + len(prompt)
        answer: list[int] = []
        while len(answer) < max_tokens:
            token = int(self._logits(hidden).argmax())
            if token in stop_ids:
                break
            answer.append(token)
            if len(answer) < max_tokens:
                hidden = self._step(token, number)
                number += 1
        return answer

    def _read(self, prompt: np.ndarray) -> torch.Tensor:
        """Bring the cache to the context and the prompt behind it; the last hidden state (1, E)."""
        reading = read(
            self.context,
            self.memory,
            prompt,
            self.session.bundle.config.positions,
            layout=self.config.layout,
            covered=self.covered,
        )
        if reading.cost > self.budget:
            raise BudgetError(f"a reading must cost at most {self.budget} positions, got {reading.cost}")
        self.report = self.cache.read(reading)
        return self.report.hidden

    @torch.inference_mode()
    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of a hidden state (1, E): float32 (V,), on the CPU, where equal seeds draw equal tokens on any device."""
        return self.base.unembed(hidden[0]).cpu()

    def _step(self, token: int, number: int) -> torch.Tensor:
        by_place = self.session.bundle.config.positions == "context"
        return self.cache.step(token, number, float(len(self.cache) if by_place else number))

    def _keep(self, said: list[int]) -> None:
        if said:
            self.memory.append(np.array(said, dtype=np.int32))
            said.clear()

    def explain(self) -> list[EntryExplanation]:
        """Why each entry of the context has its level, and what the model saw, in time order."""
        steps = self.refocused.steps if self.refocused is not None else ()
        step = steps[-1] if steps else None
        return explain(self.context, step, self.edits, self.memory, self.session.bundle.tokenizer)

    # Going on later.

    def save(self, path: Path) -> None:
        """Write what the next token depends on besides the memory and the model. The memory is synced first."""
        self.memory.sync()
        write_json(
            path,
            {
                "format": STATE_FORMAT,
                "tokens": self.context.num_tokens,
                "covered": self.covered,
                "revision": self._revision,
                "lod": self.context.lod.tolist(),
                "index": self.context.index.tolist(),
                "allocator": self.allocator.to_plain(),
                "refocuses": self._numbers,
                "edits": [[*node, said] for node, said in sorted(self.edits.items())],
                "chance": base64.b64encode(self.chance.get_state().numpy().tobytes()).decode("ascii"),
            },
        )

    def restore(self, path: Path) -> None:
        """Go on where `save` was called, over the same memory. Raises CheckpointError, and then changes nothing."""
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            if saved["format"] != STATE_FORMAT:
                raise ValueError(f"format {saved['format']}, this version reads {STATE_FORMAT}")
            if saved["tokens"] > self.memory.num_tokens or saved["revision"] != self.memory.revision:
                raise ValueError(
                    "the memory is not the one that it was saved with, or something was forgotten since"
                )
            lod, index = (np.array(saved[name], dtype=np.int64) for name in ("lod", "index"))
            context = WorkingContext(lod, index, saved["tokens"], self.memory.block_size)
            allocator = AllocatorState.from_plain(saved["allocator"])
            edits = {Node(lod, index): [tuple(one) for one in said] for lod, index, said in saved["edits"]}
            chance = torch.Generator()
            chance.set_state(
                torch.frombuffer(bytearray(base64.b64decode(saved["chance"])), dtype=torch.uint8)
            )
            numbers, covered = int(saved["refocuses"]), int(saved["covered"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
            first = (str(problem).splitlines() or [type(problem).__name__])[0]
            raise CheckpointError(
                f"a session's state must be whole and of this memory, {path} is not ({first}); begin a new session"
            ) from None
        self.context, self.allocator, self.edits, self.chance = context, allocator, edits, chance
        self._numbers, self.covered, self.refocused, self.report = numbers, covered, None, None
        self.cache.clear()
