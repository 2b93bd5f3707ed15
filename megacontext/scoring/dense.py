"""Dense retrieval: the blocks whose addresses fit the question's best, an entry being worth its best descendant."""

from __future__ import annotations

import numpy as np

from megacontext.index import AddressIndex
from megacontext.scoring.scorer import SCORERS, Question, RankedScorer


@SCORERS.register("dense")
class Dense(RankedScorer):
    """By the cosine of addresses: what LensNet would be without looking at the context."""

    def block_values(self, question: Question) -> np.ndarray:
        address = self.parts.encoder.encode_question(question.ids)
        return AddressIndex.of(self.parts.memory).matches(address)
