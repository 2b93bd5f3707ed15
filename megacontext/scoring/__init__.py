"""Scorers: a working context and a question in, one number per entry in [-1, 1] out. Positive asks for more detail.

Every arm of an evaluation is a scorer over the same allocator, so that arms differ in nothing else.
"""

from megacontext.scoring import baselines, dense, gist_attention, hops, hybrid, lens, lexical, mass, units
from megacontext.scoring.scorer import (
    SCORERS,
    BlockScorer,
    GistReader,
    MassReader,
    Question,
    RankedScorer,
    ScoreFunction,
    Scorer,
    ScorerParts,
)

__all__ = [
    "SCORERS",
    "BlockScorer",
    "GistReader",
    "MassReader",
    "Question",
    "RankedScorer",
    "ScoreFunction",
    "Scorer",
    "ScorerParts",
    "baselines",
    "dense",
    "gist_attention",
    "hops",
    "hybrid",
    "lens",
    "lexical",
    "mass",
    "units",
]
