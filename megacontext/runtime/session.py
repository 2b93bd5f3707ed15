"""A session: one reader's history, and the loop observe -> ingest -> score -> allocate -> decode.

The session owns the way from text to answer; what it is made of (memory, scorer, allocator, base model) stays
exchangeable. When the whole history fits the budget, the context is plain tokens and the model is plain attention.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from megacontext.errors import BudgetError, ConfigError
from megacontext.focus.allocator import AllocatorConfig, AllocatorState, FocusStep, refocus
from megacontext.focus.context import WorkingContext, check_budget
from megacontext.focus.exact import NodeUtilities, best_context
from megacontext.focus.rules import NO_RULES, Rules
from megacontext.models.attention_mass import AttentionWatch
from megacontext.models.gpt import GPT
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.context_cache import ContextCache
from megacontext.runtime.decoding import decode_greedily, decoding
from megacontext.runtime.frozen.encoding import encoder_of, gists_of
from megacontext.runtime.frozen.reader import FrozenReader
from megacontext.runtime.gist_reading import AttentionToGists
from megacontext.runtime.layout import LAYOUTS, context_room
from megacontext.runtime.reading import NO_FRAME, Reading, read
from megacontext.scoring import SCORERS, BlockScorer, Question, Scorer, ScorerParts
from megacontext.tree.memory import Memory


@dataclass(frozen=True, kw_only=True)
class FocusConfig:
    """The working context of a session."""

    budget: int = 256
    """Key/value positions that the first decoded token may attend to: context and prompt together."""
    max_steps: int = 16
    """Refocus steps for one question at most."""
    layout: str = "timeline"
    """Order in which the model reads the context: see `layout`."""
    allocator: AllocatorConfig = field(default_factory=AllocatorConfig)

    def __post_init__(self) -> None:
        LAYOUTS.get(self.layout)
        if self.max_steps < 1:
            raise ConfigError(f"focus.max_steps must be at least 1, got {self.max_steps}; raise it")


@dataclass(frozen=True)
class Focus:
    """What a refocus did for one question."""

    steps: list[FocusStep]
    """In order; the last one has no edits and holds the final context. Empty when everything fitted raw."""
    context: WorkingContext
    latency_ms: float
    """Scoring, planning and editing, the scorer's look at the question included."""


def starting_context(num_tokens: int, block_size: int, budget: int, prompt_tokens: int) -> WorkingContext:
    """What a refocus starts from: all tokens where they fit beside the prompt, else the coarsest cover.

    Raises BudgetError when the budget does not even hold the prompt with that cover, or with one block.
    """
    room = budget - prompt_tokens
    if num_tokens <= room:
        return WorkingContext.raw(num_tokens, block_size)
    cover = WorkingContext.cover(num_tokens, block_size)
    if max(cover.cost, block_size) > room:
        raise BudgetError(
            f"the budget must hold the prompt of {prompt_tokens} tokens with one block of {block_size} and with the "
            f"coarsest cover of {num_tokens:,} tokens, which takes {cover.cost} positions, got {budget}; "
            f"raise focus.budget to {prompt_tokens + max(cover.cost, block_size)} at least"
        )
    return cover


class Session:
    """A memory being read by a model within a budget.

    The model and what belongs to it come as a bundle, or as the reader of a frozen decoder.
    """

    def __init__(
        self,
        bundle: Bundle | FrozenReader,
        memory: Memory,
        config: FocusConfig,
        *,
        scorer: str = "lensnet",
        seed: int = 0,
    ):
        """Raises TreeFormatError for a memory that a frozen reader was not made for."""
        check_budget(config.budget, memory.block_size)
        self.bundle, self.memory, self.config = bundle, memory, config
        self.frame, self.gists = NO_FRAME, None
        self.encoder = encoder_of(bundle)
        if isinstance(bundle, FrozenReader):
            self.frame, self.gists = bundle.frame, gists_of(bundle, memory)
        self.scorer_name, self._seed = scorer, seed
        SCORERS.get(scorer)
        self._scorers: dict[tuple[str, int, int], Scorer] = {}

    @property
    def decodes_alone(self) -> bool:
        """Whether readings are decoded one by one in any case, so that nothing is gained by keeping several."""
        return isinstance(self.bundle, FrozenReader)

    def prompt_cost(self, prompt: np.ndarray) -> int:
        """Positions of the budget that a prompt (P,) takes, with what the model wants around it."""
        return self.frame.cost(prompt)

    def observe(self, heard: str | np.ndarray) -> None:
        """Append text or token ids to the history. When it returns, they are in the memory."""
        self.memory.append(self.bundle.tokenizer.encode(heard) if isinstance(heard, str) else heard)

    def focus(
        self,
        prompt: np.ndarray,
        *,
        scorer: str | None = None,
        number: int = 0,
        needed_blocks: tuple[int, ...] = (),
        heads: int = 1,
        rules: Rules = NO_RULES,
        told: Callable[[FocusStep], None] = lambda step: None,
    ) -> Focus:
        """Choose the working context for `prompt` (P,) token ids, starting from the coarse cover of the history.

        What the rules pin stays open, what they exclude stays folded; `told` hears of each step as it is made.
        With several `heads` the context has that part of the budget: all heads' positions together are what it holds.
        Raises BudgetError when prompt and coarsest cover do not fit the budget together, ConfigError for the strategy
        `exact` with a scorer that has no number for each block.
        """
        began = time.perf_counter()
        memory, layout = self.memory, self.config.layout
        budget = self.config.budget // heads
        around = self.prompt_cost(prompt)
        start = starting_context(memory.num_tokens, memory.block_size, budget, around)
        if not start.lod.any():
            return Focus([], start, (time.perf_counter() - began) * 1000)
        asked = Question(number=number, ids=prompt, needed_blocks=needed_blocks, excluded=rules.excluded)
        by = self.scorer(scorer)
        room = context_room(budget - around, start, layout)
        steps = refocus(
            start,
            by.ask(asked),
            room,
            AllocatorState(),
            self.config.allocator,
            self.config.max_steps,
            rules,
            goal=self.goal(by, asked, room),
            told=told,
        )
        if memory.writable:
            self.count_accesses(steps)
        return Focus(steps, steps[-1].context, (time.perf_counter() - began) * 1000)

    @torch.inference_mode()
    def _attention(self, context: WorkingContext, prompt: np.ndarray) -> np.ndarray:
        """Attention mass, float32 (cost + P,), that the last tokens of `prompt` give each position in time order."""
        base = self.bundle.base
        if not isinstance(base, GPT):
            raise ConfigError(
                f"attention mass is read off our own GPT, got {type(base).__name__}; choose another scorer"
            )
        reading = self._reading(context, prompt)
        cache = base.reserve(1, reading.cost)
        with AttentionWatch(base) as watch:
            ContextCache(base, reading.cost, cache).read(reading)
            return watch.mass(cache)[0].cpu().numpy()

    def _gist_reader(self) -> AttentionToGists | None:
        """What tells attention to gists of the memory; None for a model whose attention is not watched."""
        base, memory = self.bundle.base, self.memory
        if not isinstance(base, GPT):
            return None
        return AttentionToGists(
            base, memory, self.bundle.config.positions, cached_gists=self.encoder.cached_gists
        )

    def goal(self, scorer: Scorer, question: Question, room: int) -> WorkingContext | None:
        """The best context there is by the scorer's numbers for blocks, for the strategy that walks there; else None.

        A block shown as tokens is worth its score, a gist nothing. Raises ConfigError for a scorer of entries alone.
        """
        allocator = self.config.allocator
        if allocator.strategy != "exact":
            return None
        if not isinstance(scorer, BlockScorer):
            raise ConfigError(
                "strategy 'exact' needs a scorer that gives every block a number, "
                f"got {type(scorer).__name__}; choose another strategy, or a scorer such as bm25 or dense"
            )
        memory = self.memory
        worth = NodeUtilities(
            num_tokens=memory.num_tokens, block_size=memory.block_size, raw=scorer.block_scores(question)
        )
        return best_context(worth, room, protect_recent_tokens=allocator.protect_recent_tokens)

    def read(
        self,
        context: WorkingContext | None,
        prompt: np.ndarray,
        *,
        layout: str | None = None,
        covered: int | None = None,
    ) -> Reading:
        """What the model reads for `context` and `prompt`; checks the budget at the attention's input.

        The layout is the session's, and covers all finished blocks, unless another is named.
        """
        if covered is None:
            covered = 0 if context is None else context.num_tokens // context.block_size * context.block_size
        reading = self._reading(context, prompt, layout=layout or self.config.layout, covered=covered)
        if reading.cost > self.config.budget:
            raise BudgetError(
                f"a reading must cost at most {self.config.budget} positions, got {reading.cost}"
            )
        return reading

    def _reading(self, context: WorkingContext | None, prompt: np.ndarray, **how: Any) -> Reading:
        gists = self.gists
        return read(
            context,
            self.memory,
            prompt,
            self.bundle.config.positions,
            cached_gists=self.encoder.cached_gists,
            gists=None if gists is None else gists.memory,
            levels=None if gists is None else gists.levels,
            frame=self.frame,
            **how,
        )

    def answer(self, question: str, *, max_tokens: int = 12) -> str:
        """Refocus for `question` and decode up to the end of the line."""
        prompt = self.bundle.tokenizer.encode(question)
        reading = self.read(self.focus(prompt).context, prompt)
        return self.decode([reading], max_tokens=max_tokens)[0]

    def decoding(self, reading: Reading, *, max_tokens: int) -> Iterator[int]:
        """Ids of the greedy continuation of one reading as they are drawn, up to the end of the line."""
        return decoding(self.bundle.base, reading, max_tokens=max_tokens, stop_tokens=self._stops())

    def decode(self, readings: list[Reading], *, max_tokens: int = 12, heads: int = 1) -> list[str]:
        """Greedy continuations of readings, up to the end of the line, without surrounding blanks.

        The readings may come from several sessions on one model. Every `heads` in a row are one reader's.
        """
        rows = decode_greedily(
            self.bundle.base, readings, max_tokens=max_tokens, stop_tokens=self._stops(), heads=heads
        )
        return [self.bundle.tokenizer.decode(row).strip() for row in rows]

    def _stops(self) -> frozenset[int]:
        """What ends an answer."""
        (newline,) = self.bundle.tokenizer.encode("\n").tolist()
        return self.frame.stops | {newline}

    def count_accesses(self, steps: list[FocusStep]) -> None:
        """Note in the memory which entries each step saw and unfolded."""
        now_ms = time.time_ns() // 1_000_000
        for step in steps:
            opened = np.zeros(len(step.context.lod), dtype=bool)
            opened[[edit.slot for edit in step.edits if edit.kind == "expand"]] = True
            self.memory.record_access(step.context.lod, step.context.index, opened, time_ms=now_ms)

    def scorer(self, name: str | None = None) -> Scorer:
        """The scorer of that name, or the session's own, over the history as it is; made anew when it has changed."""
        name = name or self.scorer_name
        key = name, self.memory.num_blocks, self.memory.revision
        if key not in self._scorers:
            self._scorers = {other: made for other, made in self._scorers.items() if other[1:] == key[1:]}
            self._scorers[key] = SCORERS.get(name)(
                ScorerParts(
                    memory=self.memory,
                    tokenizer=self.bundle.tokenizer,
                    encoder=self.encoder,
                    lens=self.bundle.lens,
                    room_blocks=max(1, self.config.budget // self.memory.block_size),
                    seed=self._seed,
                    attention=self._attention,
                    gists=self._gist_reader(),
                )
            )
        return self._scorers[key]
