"""BM25 over blocks (Robertson and Zaragoza 2009), with rank-bm25: the opponent on lexical needles.

A block is indexed together with the same few tokens before it that its address sees, so that a sentence cut by a
block boundary is found by its subject here as it is there.
"""

from __future__ import annotations

import re

import numpy as np
from rank_bm25 import BM25Okapi

from megacontext.scoring.scorer import SCORERS, BlockScorer, Question, ScorerParts, rank_scores

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words of a text."""
    return _WORD.findall(text.lower())


@SCORERS.register("bm25")
class BM25(BlockScorer):
    """The blocks whose words match the question's best."""

    def __init__(self, parts: ScorerParts):
        super().__init__(parts)
        memory = parts.memory
        size, left = memory.block_size, memory.left_tokens
        ids = memory.tokens(0, memory.num_blocks * size)
        texts = [
            parts.tokenizer.decode(ids[max(0, start - left) : start + size])
            for start in range(0, len(ids), size)
        ]
        self._index = BM25Okapi([words(text) for text in texts]) if texts else None

    def block_scores(self, question: Question) -> np.ndarray:
        if self._index is None:
            return np.zeros(0, dtype=np.float32)
        found = self._index.get_scores(words(self.parts.tokenizer.decode(question.ids)))
        return rank_scores(found, self.parts.room_blocks)
