"""BM25 over blocks: the opponent on lexical needles. The index is `megacontext.index.postings`."""

from __future__ import annotations

import numpy as np

from megacontext.index import WordIndex, words
from megacontext.scoring.scorer import SCORERS, Question, RankedScorer


@SCORERS.register("bm25")
class BM25(RankedScorer):
    """The blocks whose words match the question's best; then, where no word matches, the newest."""

    def block_values(self, question: Question) -> np.ndarray:
        return self._matches(question.ids)

    def _matches(self, asked: np.ndarray) -> np.ndarray:
        tokenizer = self.parts.tokenizer
        found = WordIndex.of(self.parts.memory, tokenizer).scores(words(tokenizer.decode(asked)))
        found[found == 0] = -np.inf
        return found


@SCORERS.register("bm25-last")
class BM25Last(BM25):
    """The same of the last tokens of what is asked alone.

    Where steps are said after a question, the words of all of them would lead back to what was read already; a reader
    that looks up what was said last does better.
    """

    def block_values(self, question: Question) -> np.ndarray:
        return self._matches(question.last)
