"""Scorers: a working context and a question in, one number per entry in [-1, 1] out. Positive asks for more detail.

Every arm of an evaluation is a scorer over the same allocator, so that arms differ in nothing else.
"""

from megacontext.scoring import baselines, lens, lexical
from megacontext.scoring.scorer import SCORERS, BlockScorer, Question, ScoreFunction, Scorer, ScorerParts

__all__ = [
    "SCORERS",
    "BlockScorer",
    "Question",
    "ScoreFunction",
    "Scorer",
    "ScorerParts",
    "baselines",
    "lens",
    "lexical",
]
