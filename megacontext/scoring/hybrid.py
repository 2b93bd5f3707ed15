"""Two scorers in one: LensNet with BM25, and any two by reciprocal rank."""

from __future__ import annotations

import numpy as np

from megacontext.focus.context import WorkingContext
from megacontext.scoring.lens import Lens
from megacontext.scoring.lexical import BM25, BM25Last
from megacontext.scoring.ranks import fused_ranks, rank_scores
from megacontext.scoring.scorer import (
    SCORERS,
    Question,
    RankedScorer,
    ScoreFunction,
    Scorer,
    ScorerParts,
)


@SCORERS.register("lensnet+bm25")
class LensAndBM25(Scorer):
    """LensNet first; BM25 spends what LensNet leaves of the budget.

    LensNet is calibrated and often content with one block. An entry that it does not want still gets half of its
    BM25 score, so that the best lexical matches fill the rest.
    """

    words: type[BM25] = BM25

    def __init__(self, parts: ScorerParts):
        super().__init__(parts)
        self._lens, self._bm25 = Lens(parts), self.words(parts)

    def ask(self, question: Question) -> ScoreFunction:
        lens, bm25 = self._lens.ask(question), self._bm25.ask(question)
        return lambda context: np.maximum(lens(context), 0.5 * bm25(context))


@SCORERS.register("lensnet+bm25-last")
class LensAndBM25Last(LensAndBM25):
    """The same with the words of what was said last."""

    words = BM25Last


class FusedBlocks(RankedScorer):
    """Two scorers of blocks: those that both rank high come first, by reciprocal rank over the whole history."""

    first: str
    second: str

    def __init__(self, parts: ScorerParts):
        super().__init__(parts)
        made = [SCORERS.get(name)(parts) for name in (self.first, self.second)]
        assert all(isinstance(scorer, RankedScorer) for scorer in made), "entries are fused by FusedEntries"
        self._both: list[RankedScorer] = made  # type: ignore[assignment]

    def block_values(self, question: Question) -> np.ndarray:
        values = [scorer.block_values(question) for scorer in self._both]
        fused = fused_ranks(values, len(values[0]))
        fused[fused == 0] = -np.inf
        return fused


class FusedEntries(Scorer):
    """Two scorers of any kind: their scores of the entries of one context, by reciprocal rank within it."""

    first: str
    second: str

    def __init__(self, parts: ScorerParts):
        super().__init__(parts)
        self._both = [SCORERS.get(name)(parts) for name in (self.first, self.second)]

    def ask(self, question: Question) -> ScoreFunction:
        functions = [scorer.ask(question) for scorer in self._both]

        def scores(context: WorkingContext) -> np.ndarray:
            fused = fused_ranks([score(context) for score in functions], len(context))
            return rank_scores(fused, self.parts.room_blocks)

        return scores


@SCORERS.register("dense+bm25")
class DenseAndBM25(FusedBlocks):
    """Meaning and words, as retrieval systems fuse them."""

    first, second = "dense", "bm25"


@SCORERS.register("attention+bm25")
class AttentionAndBM25(FusedEntries):
    """What the model looks at, and the words that it cannot see inside a gist."""

    first, second = "attention", "bm25"
