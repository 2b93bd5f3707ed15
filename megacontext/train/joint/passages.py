"""What a training step is about: a history, and what is asked of it.

A passage is a stretch of a book. Of plain text the H tokens that follow it are to be foretold, and its own last tokens
stand for the question, as in a live session. With facts planted in it, a question follows the history and its answer is
to be foretold. For the inverse cloze task (Lee et al. 2019) a span of one of its blocks is the question, and that block
the answer; nothing is to be foretold then.

Everything that is to be foretold comes after the history's end, and nothing else of a passage knows of it. Deliberately
knows nothing of models or trees: token ids and block numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megacontext.errors import ConfigError
from megacontext.tasks.facts import FactsConfig
from megacontext.train.contexts import ContextSampler

QUESTION_TOKENS = 32
"""How many of the last tokens stand for the question in plain text: `runtime.live` takes as many."""
_SPAN_TOKENS = 8
"""Longest span of a cloze question."""


@dataclass(frozen=True, kw_only=True)
class PassageSpec:
    """The shape of passages."""

    min_blocks: int = 4
    max_blocks: int = 16
    """Blocks of text, drawn between the two. Planted facts come on top, and an unfinished block at the end."""
    horizon: int = 32
    """H, tokens to foretell behind plain text; an answer is cut to as many."""
    facts_share: float = 0.5
    """Share of passages with facts planted; the others are plain text."""
    keys: int = 6
    """Facts planted in a passage."""
    asks: int = 2
    """Questions asked at most about the facts of a passage."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_blocks <= self.max_blocks:
            raise ConfigError(
                f"passages need 1 <= min_blocks <= max_blocks, got {self.min_blocks} and {self.max_blocks}"
            )
        if min(self.horizon, self.keys, self.asks) < 1 or not 0 <= self.facts_share <= 1:
            raise ConfigError(
                "passages need horizon, keys and asks of at least 1 and facts_share in [0, 1], got "
                f"{self.horizon}, {self.keys}, {self.asks} and {self.facts_share}"
            )


@dataclass(frozen=True)
class Ask:
    """One thing that is asked of a history."""

    prompt: np.ndarray
    """int (P,): what the model reads between context and horizon; empty for plain text."""
    horizon: np.ndarray
    """int (H,): the true tokens after it, the only targets; empty where nothing is foretold."""
    question: np.ndarray
    """int (T,), T >= 1: what LensNet is asked with; never a token of the horizon."""
    needed: tuple[int, ...] = ()
    """Blocks of the evidence that counts; empty where nobody knows."""
    holding: tuple[int, ...] = ()
    """Blocks that an address of the question may be like: those of older statements too."""
    is_answer: bool = False
    """The horizon is an answer, and not the text's own continuation."""


@dataclass(frozen=True)
class Passage:
    """A history (N,) of token ids, and what is asked of it."""

    history: np.ndarray
    asks: tuple[Ask, ...]


class Source(Protocol):
    """Where passages come from; the same generator state gives the same passage."""

    def passage(self, rng: np.random.Generator, spec: PassageSpec) -> Passage:
        """A history with a horizon for each ask."""
        ...

    def cloze(self, rng: np.random.Generator, spec: PassageSpec) -> Passage:
        """A history with questions whose block is known."""
        ...


class BookPassages:
    """Passages of books, with the names that training may use."""

    def __init__(self, contexts: ContextSampler):
        self.contexts = contexts
        sizes = np.array([len(book) for book in contexts.books], dtype=np.float64)
        self._shares = sizes / sizes.sum()
        counts = np.bincount(np.concatenate(contexts.books), minlength=contexts.tokenizer.vocab_size)
        self._rarity = -np.log((counts + 1.0) / counts.sum())
        self._newline = contexts.tokenizer.encode("\n")

    def check(self, spec: PassageSpec) -> None:
        """Raises ConfigError where a book is too short for such passages."""
        wanted = (spec.max_blocks + 1) * self.contexts.block_size + spec.horizon
        if (shortest := min(map(len, self.contexts.books))) < wanted:
            raise ConfigError(
                f"passages of {spec.max_blocks} blocks and {spec.horizon} tokens need books of {wanted:,} tokens, one "
                f"has {shortest:,}; give longer books or lower max_blocks"
            )

    def passage(self, rng: np.random.Generator, spec: PassageSpec) -> Passage:
        """Plain text with its continuation, or planted facts with questions: `Source.passage`."""
        return self._planted(rng, spec) if rng.random() < spec.facts_share else self._plain(rng, spec)

    def cloze(self, rng: np.random.Generator, spec: PassageSpec) -> Passage:
        """Plain text with spans of its own blocks for questions, or planted facts: `Source.cloze`."""
        if rng.random() < spec.facts_share:
            return self._planted(rng, spec)
        history = self._stretch(rng, self._tokens(rng, spec))
        size = self.contexts.block_size
        blocks = len(history) // size
        asks = []
        for block in rng.choice(blocks, size=min(spec.asks, blocks), replace=False).tolist():
            span = self._span(rng, history[block * size : (block + 1) * size])
            nothing = np.zeros(0, dtype=history.dtype)
            asks.append(Ask(nothing, nothing, span, (block,), (block,)))
        return Passage(history, tuple(asks))

    def _plain(self, rng: np.random.Generator, spec: PassageSpec) -> Passage:
        length = self._tokens(rng, spec)
        stretch = self._stretch(rng, length + spec.horizon)
        history, horizon = stretch[:length], stretch[length:]
        return Passage(history, (Ask(history[:0], horizon, history[-QUESTION_TOKENS:]),))

    def _planted(self, rng: np.random.Generator, spec: PassageSpec) -> Passage:
        size, tokenizer = self.contexts.block_size, self.contexts.tokenizer
        facts = FactsConfig(keys=spec.keys, attributes_per_person=int(rng.integers(1, 5)))
        planted, _ = self.contexts.history(rng, self._tokens(rng, spec), facts)
        finished = len(planted.ids) // size
        asks = []
        for which in rng.permutation(len(planted.questions)).tolist():
            question = planted.questions[which]
            spans = [_blocks(statement.start, statement.stop, size) for statement in question.statements]
            if spans[-1][-1] >= finished:
                continue  # the evidence stands in the tail, which is shown anyway
            prompt = tokenizer.encode(question.prompt)
            answer = np.concatenate((tokenizer.encode(question.answer), self._newline))
            holding = tuple(sorted({block for span in spans for block in span}))
            asks.append(Ask(prompt, answer[: spec.horizon], prompt, spans[-1], holding, is_answer=True))
        return Passage(planted.ids, tuple(asks[: spec.asks]))

    def _tokens(self, rng: np.random.Generator, spec: PassageSpec) -> int:
        """Length of a history: whole blocks, and a piece of the next one."""
        size = self.contexts.block_size
        return int(rng.integers(spec.min_blocks, spec.max_blocks + 1)) * size + int(rng.integers(size))

    def _stretch(self, rng: np.random.Generator, length: int) -> np.ndarray:
        book = self.contexts.books[int(rng.choice(len(self._shares), p=self._shares))]
        start = int(rng.integers(len(book) - length + 1))
        return book[start : start + length]

    def _span(self, rng: np.random.Generator, block: np.ndarray) -> np.ndarray:
        """Up to eight consecutive tokens of `block`, likelier where they are rare."""
        length = min(int(rng.integers(2, _SPAN_TOKENS + 1)), len(block))
        rarity = np.convolve(self._rarity[block], np.ones(length), mode="valid") / length
        chances = np.exp(rarity - rarity.max())
        start = int(rng.choice(len(chances), p=chances / chances.sum()))
        return block[start : start + length]


def _blocks(start: int, stop: int, block_size: int) -> tuple[int, ...]:
    return tuple(range(start // block_size, (stop - 1) // block_size + 1))
