"""What a scorer is, and how numbers per block become scores per entry.

A scorer is made for one memory and answers for one question with a function of the working context. Most scorers
know something about every block of the history (its recency, its BM25 score); then an entry is worth its best
descendant, so that a focus step can walk from a coarse gist down to that block.

Deliberately ignorant of what is legal or affordable: that is the allocator's.
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
from megacontext.tokenizer import Tokenizer
from megacontext.tree.memory import Memory

ScoreFunction = Callable[[WorkingContext], np.ndarray]
"""Working context of N entries in, float32 (N,) in [-1, 1] out."""


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


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, as a scorer may know it."""

    number: int
    """Names the question within its history; random choices depend on it."""
    ids: np.ndarray
    """int32 (T,): the tokens that the model will read after the context."""
    needed_blocks: tuple[int, ...] = ()
    """The blocks that hold the answer. Only the oracle may look."""


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
        scores = self.block_scores(question)
        return lambda context: best_of_blocks(context, scores, tail=-1.0)


SCORERS: Registry[type[Scorer]] = Registry("scorer")


def block_starts(context: WorkingContext) -> np.ndarray:
    """First block of each entry that has finished blocks, int64: all entries but an unfinished tail."""
    full = context.stop // context.block_size * context.block_size > context.start
    return context.start[full] // context.block_size


def best_of_blocks(context: WorkingContext, scores: np.ndarray, tail: float) -> np.ndarray:
    """The highest of each entry's block `scores` (num_blocks,), float32 (N,); `tail` for an unfinished last block."""
    starts = block_starts(context)
    best = np.full(len(context), tail, dtype=np.float32)
    if len(starts):
        best[: len(starts)] = np.maximum.reduceat(scores, starts)
    return best


def rank_scores(values: np.ndarray, room: int) -> np.ndarray:
    """Scores (n,) by rank alone: 1 for the highest value, 0 after `room` of them, -1 from 2 * room on.

    Ties go to the later block. For scorers whose numbers have no scale: they want the budget filled with their best.
    """
    order = np.lexsort((-np.arange(len(values)), -values))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values))
    return np.clip(1.0 - ranks / max(1, room), -1.0, 1.0).astype(np.float32)
