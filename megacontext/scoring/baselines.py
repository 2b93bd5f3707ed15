"""Scorers that learn nothing: recency, sinks and recency, random, and the oracle."""

from __future__ import annotations

import numpy as np

from megacontext.scoring.scorer import SCORERS, BlockScorer, Question, RankedScorer


@SCORERS.register("recency")
class Recency(RankedScorer):
    """The newest blocks."""

    def block_values(self, question: Question) -> np.ndarray:
        return np.arange(self.parts.memory.num_blocks, dtype=np.float64)


@SCORERS.register("sinks+recency")
class SinksAndRecency(RankedScorer):
    """The first block and the newest ones (StreamingLLM, Xiao et al. 2023; its 4 sink tokens are one block here)."""

    def block_values(self, question: Question) -> np.ndarray:
        newness = np.arange(self.parts.memory.num_blocks, dtype=np.float64)
        newness[:1] = np.inf
        return newness


@SCORERS.register("random")
class Random(RankedScorer):
    """Blocks drawn uniformly, anew for each question."""

    def block_values(self, question: Question) -> np.ndarray:
        rng = np.random.default_rng((self.parts.seed, question.number))
        return rng.random(self.parts.memory.num_blocks)


@SCORERS.register("oracle")
class Oracle(BlockScorer):
    """The blocks that hold the answer, and nothing else: the ceiling of any choice of blocks."""

    def block_scores(self, question: Question) -> np.ndarray:
        scores = np.full(self.parts.memory.num_blocks, -1.0, dtype=np.float32)
        scores[list(question.needed_blocks)] = 1.0
        return scores
