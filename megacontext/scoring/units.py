"""Retrieval of whole stretches by a few representative keys each, as InfLLM does it (Xiao et al. 2024).

InfLLM cuts what left the window into units of 128 tokens, keeps a few representative keys of each, and loads the units
whose keys together fit the query best, whole. Here a unit is 128 tokens too, and its representative keys are the
addresses of its blocks, four of them at K = 32. InfLLM takes its keys from the model's own attention, without training;
addresses are trained to be found, so in that this opponent is the stronger one. What it shares with InfLLM is the price
of whole units: a budget holds few of them, and one close match is averaged with its neighbours.
"""

from __future__ import annotations

import numpy as np

from megacontext.index import AddressIndex
from megacontext.scoring.scorer import SCORERS, Question, RankedScorer

UNIT_TOKENS = 128


@SCORERS.register("infllm-style")
class Units(RankedScorer):
    """The units whose blocks' addresses fit the question best on average, each with all of its blocks."""

    def block_values(self, question: Question) -> np.ndarray:
        memory = self.parts.memory
        matches = AddressIndex.of(memory).matches(self.parts.encoder.encode_question(question.ids))
        blocks = max(1, UNIT_TOKENS // memory.block_size)
        first = np.arange(0, len(matches), blocks)
        if not len(first):
            return matches.astype(np.float64)
        counts = np.diff(np.append(first, len(matches)))
        return np.repeat(np.add.reduceat(matches.astype(np.float64), first) / counts, counts)
