"""Step *preference*: which neighbour of a context is better, and which edits lead there.

The better neighbour is the regularised argmin over a context and its siblings of

    nats a token over the horizon + weight * share of the positions that would have to be replaced.

The second term is 0 for the context itself, so a neighbour has to earn what it changes: a difference of a few
hundredths of a nat over some tens of tokens is noise, and every replaced position costs keys and values that were
already there. With a weight of 0.1 to 0.3 a neighbour that replaces all has to save that many nats a token, one that
opens one block of a context of 240 positions a seventh of it; of two that are equally good, the one nearer by wins.

LensNet learns the way there: in every context that the refocus went through on its way to the better neighbour, the
target of an entry is the direction in which that neighbour shows it, finer 1, coarser -1. Where no sibling is better,
the directions that the siblings took from the context are its targets with their signs turned: stay. All edits of one
neighbour share its one difference, so this term says little about any single one; `counterfactual` measures those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from megacontext.focus.context import WorkingContext
from megacontext.train.joint.sample import block_levels
from megacontext.train.joint.siblings import Sibling


@dataclass(frozen=True, eq=False)
class Lesson:
    """What LensNet should say of one context."""

    context: WorkingContext
    targets: np.ndarray
    """float32 (W,): 1 for more detail, -1 for less, 0 where nothing is said."""


@dataclass(frozen=True, eq=False)
class Preference:
    """What one context should become."""

    best: int | None
    """Index of the better sibling; None for the context itself."""
    gain: float
    """By how much the regularised loss falls, nats a token; 0 where the context stays."""
    lessons: tuple[Lesson, ...]


def replaced(context: WorkingContext, other: WorkingContext) -> float:
    """Share of the positions of `other` that `context` does not have, 0..1."""
    own = set(zip(context.lod.tolist(), context.index.tolist(), strict=True))
    new = [node not in own for node in zip(other.lod.tolist(), other.index.tolist(), strict=True)]
    return float(other.costs[np.array(new, dtype=bool)].sum() / max(1, other.cost))


def directions(context: WorkingContext, other: WorkingContext) -> np.ndarray:
    """How `other` shows the span of each entry of `context`: 1 finer anywhere, -1 coarser, 0 the same. int64 (W,)."""
    levels = block_levels(other)
    size = context.block_size
    # Within one entry's span the other context is either all at its level, all coarser, or finer somewhere.
    finest = np.minimum.reduceat(levels, context.start // size) if len(context) else levels[:0]
    coarsest = np.maximum.reduceat(levels, context.start // size) if len(context) else levels[:0]
    return np.where(finest < context.lod, 1, np.where(coarsest > context.lod, -1, 0))


def prefer(
    context: WorkingContext, nats: float, others: Sequence[Sibling], their_nats: np.ndarray, weight: float
) -> Preference:
    """The regularised argmin; `nats` and `their_nats` (n,) are a token's, on the same horizon."""
    if not others:
        return Preference(None, 0.0, ())
    price = weight * np.array([replaced(context, other.context) for other in others])
    gains = nats - (their_nats + price)
    best = int(gains.argmax())
    if gains[best] > 0:
        end = others[best].context
        way = dict.fromkeys(step.context for step in others[best].steps if step.context != end)
        lessons = [Lesson(seen, directions(seen, end).astype(np.float32)) for seen in way]
        return Preference(best, float(gains[best]), tuple(lessons))
    away = np.sum([directions(context, other.context) for other in others], axis=0)
    return Preference(None, 0.0, (Lesson(context, -np.sign(away).astype(np.float32)),))


def preference_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Logistic loss of logits (B, N) for `targets` (B, N) in {-1, 0, 1}: mean over the entries that have one."""
    said = targets != 0
    return (F.softplus(-targets * logits) * said).sum() / said.sum().clamp_min(1)
