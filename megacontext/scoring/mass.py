"""Attention mass: an entry that the model looks at more than its place earns is worth more detail.

The model reads the context with the question behind it; what counts is the attention that the question's last tokens
give to each position, averaged over heads and layers. It is a signal of the model's own, without a network to train,
and it sees only what a gist lets through: the mass of a gist says that the model wants it, not what is inside.

Deliberately ignorant of the model: the mass comes from a `MassReader`.
"""

from __future__ import annotations

import numpy as np

from megacontext.errors import ConfigError
from megacontext.focus.context import WorkingContext
from megacontext.scoring.scorer import SCORERS, Question, ScoreFunction, Scorer, ScorerParts


@SCORERS.register("attention")
class AttentionMass(Scorer):
    """The score of an entry is (r - 1) / (r + 1), r being its mass over its share.

    Its share is what it would get if the context's mass were spread evenly over the context's positions. So 0 is even
    attention, 1/3 is twice the share, -1/3 half of it, 1 everything and -1 nothing. The mass that stays in the question
    itself is left out. So is the first position, which draws attention whatever it holds (an attention sink, Xiao et
    al. 2023): an entry is judged by its other positions, and one that has no other scores 0.
    """

    def __init__(self, parts: ScorerParts):
        super().__init__(parts)
        if parts.attention is None:
            raise ConfigError(
                "attention mass needs a model that reads the context, none was given; pass ScorerParts(attention=...), "
                "or choose another scorer"
            )
        self._mass = parts.attention

    def ask(self, question: Question) -> ScoreFunction:
        return lambda context: mass_scores(context, self._mass(context, question.ids)[: context.cost])


def mass_scores(context: WorkingContext, mass: np.ndarray) -> np.ndarray:
    """Scores float32 (N,) of the entries from the mass (cost,) of their positions, as `AttentionMass` defines them."""
    if not len(context):
        return np.zeros(0, dtype=np.float32)
    mass = mass.astype(np.float64)
    mass[0] = 0.0
    positions = context.costs.copy()
    positions[0] -= 1
    first = np.cumsum(context.costs) - context.costs
    of_entry = np.add.reduceat(mass, first)
    mean = of_entry.sum() / max(1, positions.sum())
    share = positions * mean
    # (r - 1) / (r + 1) with r = mass / share, without dividing by a share of nothing.
    both = of_entry + share
    return np.divide(of_entry - share, both, out=np.zeros_like(both), where=both > 0).astype(np.float32)
