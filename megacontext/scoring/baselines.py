"""Scorers that learn nothing: recency, sinks and recency, random, and the oracle."""

from __future__ import annotations

import numpy as np

from megacontext.scoring.scorer import SCORERS, BlockScorer, Question, rank_scores


@SCORERS.register("recency")
class Recency(BlockScorer):
    """The newest blocks."""

    def block_scores(self, question: Question) -> np.ndarray:
        return rank_scores(np.arange(self.parts.memory.num_blocks, dtype=np.float64), self.parts.room_blocks)


@SCORERS.register("sinks+recency")
class SinksAndRecency(BlockScorer):
    """The first block and the newest ones (StreamingLLM, Xiao et al. 2023; its 4 sink tokens are one block here)."""

    def block_scores(self, question: Question) -> np.ndarray:
        age = np.arange(self.parts.memory.num_blocks, dtype=np.float64)
        age[:1] = np.inf
        return rank_scores(age, self.parts.room_blocks)


@SCORERS.register("random")
class Random(BlockScorer):
    """Blocks drawn uniformly, anew for each question."""

    def block_scores(self, question: Question) -> np.ndarray:
        rng = np.random.default_rng((self.parts.seed, question.number))
        return rank_scores(rng.random(self.parts.memory.num_blocks), self.parts.room_blocks)


@SCORERS.register("oracle")
class Oracle(BlockScorer):
    """The blocks that hold the answer, and nothing else: the ceiling of any choice of blocks."""

    def block_scores(self, question: Question) -> np.ndarray:
        scores = np.full(self.parts.memory.num_blocks, -1.0, dtype=np.float32)
        scores[list(question.needed_blocks)] = 1.0
        return scores
