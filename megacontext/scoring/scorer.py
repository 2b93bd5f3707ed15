"""What a scorer is, and how numbers per block become scores per entry.

A scorer is made for one memory and answers for one question with a function of the working context. Most scorers
know something about every block of the history (its recency, its BM25 score); then an entry is worth its best
descendant, so that a focus step can walk from a coarse gist down to that block.

A score says how much detail an entry is worth: towards 1 more than it has, or all of it kept; towards -1 none. So a raw
block may well score 1: it has its detail and must not be folded. That nothing raw is ever expanded, and nothing beyond
the budget, is the allocator's mask (`focus.options`, `may_expand`), the same for every scorer. Deliberately ignorant of
what is legal or affordable.

Nothing here may grow with the history but a few numbers a block while a question is looked at: what is looked up by
content lies in the mapped indexes of `megacontext.index`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megacontext.focus.context import WorkingContext
from megacontext.lensnet.lens import LensNet
from megacontext.registry import Registry
from megacontext.scoring.descendants import BestBelow
from megacontext.scoring.ranks import rank_scores
from megacontext.tokenizer import Tokenizer
from megacontext.tree.memory import Memory

LAST_TOKENS = 16
"""Of what is asked: about one sentence of the tiny model's."""

ScoreFunction = Callable[[WorkingContext], np.ndarray]
"""Working context of N entries in, float32 (N,) in [-1, 1] out."""

MassReader = Callable[[WorkingContext, np.ndarray], np.ndarray]
"""Reads a context with a prompt (P,) behind it, and gives the attention mass, float32 (cost + P,), that the prompt's
last tokens give each position: see `megacontext.models.attention_mass`."""


GistReader = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Reads the gists of nodes (level and index, int64 (n,) each, in time order) with a question (P,) behind them, and
gives the attention mass, float (n,), that the question gives each: see `megacontext.runtime.gist_reading`."""


class QuestionEncoder(Protocol):
    """What scorers need of the networks beside LensNet."""

    def encode_question(self, ids: np.ndarray) -> np.ndarray:
        """Address (A,) of a question's token ids (T,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScorerParts:
    """What a scorer may be made from."""

    memory: Memory
    tokenizer: Tokenizer
    encoder: QuestionEncoder
    lens: LensNet
    room_blocks: int
    """How many raw blocks the budget could hold; scorers without a scale of their own want that many."""
    seed: int
    attention: MassReader | None = None
    """Only the attention scorer needs it."""
    gists: GistReader | None = None
    """Only scorers by the attention to gists need it."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, as a scorer may know it."""

    number: int
    """Names the question within its history; random choices depend on it."""
    ids: np.ndarray
    """int32 (T,): the tokens that the model will read after the context."""
    needed_blocks: tuple[int, ...] = ()
    """The blocks that hold the answer. Only the oracle may look."""
    excluded: tuple[tuple[int, int], ...] = ()
    """Spans of tokens that are not to be opened: their blocks draw no coarser entry towards them."""

    @property
    def last(self) -> np.ndarray:
        """What is asked last, int32 (LAST_TOKENS,) or fewer: where steps are said, the last of them."""
        return self.ids[-LAST_TOKENS:]

    def masked(self, values: np.ndarray, block_size: int, least: float) -> np.ndarray:
        """Numbers per block (num_blocks,), with `least` for every block that an excluded span touches."""
        if not self.excluded:
            return values
        masked = values.copy()
        for start, stop in self.excluded:
            masked[start // block_size : -(-stop // block_size)] = least
        return masked


class Scorer(ABC):
    """One way of saying where detail is needed."""

    def __init__(self, parts: ScorerParts):
        self.parts = parts

    @abstractmethod
    def ask(self, question: Question) -> ScoreFunction:
        """The score function for one question."""


class BlockScorer(Scorer):
    """A scorer that gives every finished block a number in [-1, 1]; an entry gets the best of its blocks."""

    @abstractmethod
    def block_scores(self, question: Question) -> np.ndarray:
        """float (num_blocks,) in [-1, 1]."""

    def ask(self, question: Question) -> ScoreFunction:
        size = self.parts.memory.block_size
        best = BestBelow(question.masked(self.block_scores(question), size, -1.0), size)
        return lambda context: best.values(context, tail=-1.0)


class RankedScorer(BlockScorer):
    """A block scorer whose numbers have no scale: the best as many as the budget has room for are wanted."""

    @abstractmethod
    def block_values(self, question: Question) -> np.ndarray:
        """float (num_blocks,): the higher, the sooner; -inf where nothing speaks for a block."""

    def block_scores(self, question: Question) -> np.ndarray:
        values = question.masked(self.block_values(question), self.parts.memory.block_size, -np.inf)
        return rank_scores(values, self.parts.room_blocks)


SCORERS: Registry[type[Scorer]] = Registry("scorer")


def best_of_blocks(context: WorkingContext, scores: np.ndarray, tail: float) -> np.ndarray:
    """The highest of each entry's block `scores` (num_blocks,), float32 (N,); `tail` for an unfinished last block."""
    return BestBelow(scores, context.block_size).values(context, tail)
