"""Counterfactual delta-NLL: what is this one edit worth, here and now, to what is to be foretold?

The utility of an edit is the negative log-likelihood of the same H true tokens without it, minus that with it, nothing
else of the context changed, divided by the positions that it costs. An entry's target is the best rate among the edits
that would bring its own detail:

- of a LOD1 gist, opening it alone, or together with a neighbour (a sentence that a block boundary cuts is worth
  nothing by halves: the pair is then worth much for twice the cost, and both may claim its rate);
- of a higher gist, the whole way down to the block below that matches the question best, at the cost of the way;
- of a raw block, what folding it would lose, at the cost that folding would refund.

So targets are nats saved per position, one scale for every kind, and an entry's score means "detail here is worth its
room". Only edits that the allocator might make of that context are measured (rules, cooldown and protected tokens by
`focus.options`, the budget by cost), and entries without one have no target and no loss. Contexts come from
refocuses of the deployed allocator by LensNet's own scores, blurred for some of them (DAgger, Ross et al. 2011).

The loss is a regression of the logit on the rate, a ranking of the measured entries of one context (RankNet, Burges et
al. 2005, pairs weighted by their difference), and, weighted low, what all expansions that the lens wants would cost
beyond the room that there is. Base and GistNet only measure: nothing here has a gradient but LensNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.focus.allocator import AllocatorConfig, AllocatorState, refocus
from megacontext.focus.context import WorkingContext
from megacontext.focus.options import stand
from megacontext.focus.rules import NO_RULES
from megacontext.lensnet.lens import LensNet
from megacontext.models.gpt import GPT
from megacontext.models.positions import PositionPolicy
from megacontext.train.joint.build import View
from megacontext.train.joint.horizon import Row, nats_of
from megacontext.train.joint.siblings import blurred


@dataclass(frozen=True, kw_only=True)
class CounterfactualConfig:
    """What is measured, and how the loss weighs it."""

    edits: int = 24
    """Entries of a context whose edits are measured: half of them those that score highest, half at random."""
    pairs: int = 4
    """Of them, entries that are also measured together with each neighbour: those that score highest."""
    contexts: int = 2
    """Contexts of each question's refocus."""
    blurred_share: float = 0.5
    """Share of refocuses whose scores are blurred."""
    noise: float = 0.5
    scale_nats: float = 1.0
    """Nats that opening one block has to save for a target logit of 1."""
    most: float = 5.0
    """Target logits are cut to this on both sides."""
    regression_weight: float = 1.0
    ranking_weight: float = 1.0
    budget_weight: float = 0.02

    def __post_init__(self) -> None:
        if min(self.edits, self.contexts) < 1 or self.pairs < 0 or not 0 <= self.blurred_share <= 1:
            raise ConfigError(
                "counterfactual needs edits and contexts of at least 1, pairs not negative, blurred_share in [0, 1], "
                f"got {self.edits}, {self.contexts}, {self.pairs} and {self.blurred_share}"
            )
        if min(self.scale_nats, self.most) <= 0 or self.noise < 0:
            raise ConfigError(
                "counterfactual.scale_nats and most must be positive and noise not negative, got "
                f"{self.scale_nats}, {self.most} and {self.noise}"
            )
        weights = (self.regression_weight, self.ranking_weight, self.budget_weight)
        if min(weights) < 0 or self.regression_weight + self.ranking_weight == 0:
            raise ConfigError(
                "counterfactual weights must not be negative, and regression_weight or ranking_weight positive, "
                f"got {weights}; a lens without either learns nothing"
            )


@dataclass(frozen=True)
class Counterfactual:
    """One edit, or a few that belong together, of one context."""

    slots: tuple[int, ...]
    """Entries that may claim its worth."""
    context: WorkingContext
    """With it."""
    cost: int
    """Positions that it costs; negative where it refunds some."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A context whose entries have been weighed."""

    view: View
    context: WorkingContext
    rate: np.ndarray
    """float64 (W,): nats saved per position; NaN where nothing was measured."""
    may_expand: np.ndarray
    """bool (W,): gists that the allocator may open."""
    room: int
    """Positions that are left in the budget."""


def walked(
    view: View,
    lens: LensNet,
    budget: int,
    allocator: AllocatorConfig,
    config: CounterfactualConfig,
    *,
    max_steps: int,
    rng: np.random.Generator,
) -> list[WorkingContext]:
    """Contexts of one refocus from the coarsest cover, a few of them drawn; the deployed allocator within `budget`."""
    tree = view.tree
    cover = WorkingContext.cover(tree.num_tokens, tree.block_size)
    score = view.scores(lens)
    if rng.random() < config.blurred_share:
        score = blurred(score, cover, config.noise, rng)
    steps = refocus(cover, score, budget - len(view.ask.prompt), AllocatorState(), allocator, max_steps)
    seen = list(dict.fromkeys(step.context for step in steps))
    return [seen[which] for which in rng.permutation(len(seen))[: config.contexts]]


def legal(context: WorkingContext, allocator: AllocatorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Which entries the allocator may expand, and which raw blocks it may fold, bool (W,) each, budget aside."""
    standing = stand(
        context,
        np.zeros(len(context)),
        AllocatorState(),
        allocator,
        NO_RULES,
        cooldown_steps=allocator.cooldown_steps,
    )
    foldable = np.zeros(len(context), dtype=bool)
    foldable[standing.groups.first[standing.may_collapse]] = True
    return standing.may_expand, foldable & (context.lod == 0)


def counterfactuals(
    view: View, context: WorkingContext, slots: Sequence[int], paired: Sequence[int], room: int
) -> list[Counterfactual]:
    """The edits of `slots`, and of `paired` slots with a neighbour, that cost at most `room` positions."""
    made = [_opened(view, context, slot) if context.lod[slot] else _folded(context, slot) for slot in slots]
    joined = {tuple(sorted((slot, slot + step))) for slot in paired for step in (-1, 1)}
    for one, other in sorted(joined):
        if one >= 0 and other < len(context) and context.lod[one] == context.lod[other] == 1:
            both = context.edited_at(expand=[one, other])
            made.append(Counterfactual((one, other), both, both.cost - context.cost))
    return [one for one in made if one.cost <= room]


def _opened(view: View, context: WorkingContext, slot: int) -> Counterfactual:
    """A gist opened down to the tokens of its best block."""
    token = np.array([view.best_block(context, slot) * context.block_size])
    edited = context
    while edited.lod[at := int(edited.slot_of(token)[0])]:
        edited = edited.edited_at(expand=[at])
    return Counterfactual((slot,), edited, edited.cost - context.cost)


def _folded(context: WorkingContext, slot: int) -> Counterfactual:
    edited = context.edited_at(collapse=[slot])
    return Counterfactual((slot,), edited, edited.cost - context.cost)


def measure(
    view: View,
    context: WorkingContext,
    scores: np.ndarray,
    base: GPT,
    policy: PositionPolicy,
    budget: int,
    allocator: AllocatorConfig,
    config: CounterfactualConfig,
    rng: np.random.Generator,
) -> Measured:
    """Weigh some entries of `context`; `scores` (W,) say which are looked at first."""
    may_expand, may_fold = legal(context, allocator)
    room = budget - len(view.ask.prompt) - context.cost
    candidates = np.flatnonzero(may_expand | may_fold)
    by_score = candidates[np.argsort(-scores[candidates], kind="stable")]
    first, rest = np.split(by_score, [min(len(by_score), -(-config.edits // 2))])
    slots = np.concatenate((first, rng.permutation(rest)[: config.edits // 2]))
    edits = counterfactuals(view, context, slots.tolist(), first[: config.pairs].tolist(), room)
    rows = [Row(view.tree, context, view.ask), *(Row(view.tree, edit.context, view.ask) for edit in edits)]
    without, *with_edit = nats_of(rows, base, policy)
    rate = np.full(len(context), np.nan)
    for edit, nats in zip(edits, with_edit, strict=True):
        # Folding has a negative cost: what it loses over what it refunds is the worth of the detail that is there.
        worth = (without - nats) / edit.cost
        for slot in edit.slots:
            rate[slot] = np.fmax(rate[slot], worth)
    return Measured(view, context, rate, may_expand, room)


def targets_of(measured: Measured, config: CounterfactualConfig) -> np.ndarray:
    """Target logits float32 (W,), NaN where there is none."""
    block = measured.context.block_size - 1
    return np.clip(measured.rate * block / config.scale_nats, -config.most, config.most).astype(np.float32)


def counterfactual_loss(
    logits: Tensor, targets: Tensor, wanted_cost: Tensor, room: Tensor, config: CounterfactualConfig
) -> Tensor:
    """Scalar loss of logits (B, N).

    `targets` (B, N), NaN where nothing was measured; `wanted_cost` (B, N): positions that expanding an entry costs, 0
    where it may not be expanded; `room` (B,): positions that are left.
    """
    known = ~torch.isnan(targets)
    wanted = torch.where(known, targets, torch.zeros_like(targets))
    count = known.sum().clamp_min(1)
    # Squared where it is near, so that the expectation is what is learnt, and linear far out.
    regression = (F.smooth_l1_loss(logits, wanted, beta=2.0, reduction="none") * known).sum() / count
    apart = wanted[:, :, None] - wanted[:, None, :]
    weight = apart.clamp_min(0) * (known[:, :, None] & known[:, None, :])
    miss = F.softplus(-(logits[:, :, None] - logits[:, None, :]))
    ranking = (miss * weight).sum() / weight.sum().clamp_min(1e-6)
    asked = (torch.sigmoid(logits) * wanted_cost).sum(dim=1)
    excess = F.relu(asked - room) / room.clamp_min(1)
    return (
        config.regression_weight * regression
        + config.ranking_weight * ranking
        + config.budget_weight * excess.mean()
    )
