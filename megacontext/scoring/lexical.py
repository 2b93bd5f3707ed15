"""BM25 over blocks: the opponent on lexical needles. The index is `megacontext.index.postings`."""

from __future__ import annotations

import numpy as np

from megacontext.index import WordIndex, words
from megacontext.scoring.scorer import SCORERS, Question, RankedScorer


@SCORERS.register("bm25")
class BM25(RankedScorer):
    """The blocks whose words match the question's best; then, where no word matches, the newest."""

    def block_values(self, question: Question) -> np.ndarray:
        tokenizer = self.parts.tokenizer
        found = WordIndex.of(self.parts.memory, tokenizer).scores(words(tokenizer.decode(question.ids)))
        found[found == 0] = -np.inf
        return found
