"""Pretraining of LensNet: which entry holds what this question is about?

On plain text the question is a span of one of the history's blocks (inverse cloze, Lee et al. 2019), on planted facts
it is a question whose statement is known; every other block is a distractor. Contexts come from refocuses of the
deployed allocator, by the truth blurred with noise or by LensNet itself, and the loss is that of `train.lens`: whether
each entry's span holds the block, and a pointer to it.

It gives a lens that finds. What is worth finding is `counterfactual`'s to teach.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from megacontext.focus.allocator import AllocatorConfig, AllocatorState, refocus
from megacontext.focus.context import WorkingContext
from megacontext.lensnet.lens import LensInput, LensNet
from megacontext.scoring.lens import collate
from megacontext.scoring.scorer import best_of_blocks
from megacontext.train.joint.build import View
from megacontext.train.lens import lens_loss


def cloze_contexts(
    view: View,
    lens: LensNet,
    budget: int,
    allocator: AllocatorConfig,
    *,
    noise: float,
    max_steps: int,
    rng: np.random.Generator,
) -> list[WorkingContext]:
    """What one refocus walks through: by the blurred truth or by LensNet, at even odds."""
    tree, truth = view.tree, block_truth(view)

    def by_truth(context: WorkingContext) -> np.ndarray:
        known = best_of_blocks(context, truth, tail=-1.0)
        return np.clip(0.5 * known + rng.normal(scale=noise, size=len(known)), -1, 1)

    cover = WorkingContext.cover(tree.num_tokens, tree.block_size)
    score = by_truth if rng.random() < 0.5 else view.scores(lens)
    steps = refocus(cover, score, budget, AllocatorState(), allocator, max_steps)
    return list(dict.fromkeys(step.context for step in steps))


def block_truth(view: View) -> np.ndarray:
    """float32 (num_blocks,): 1 for the blocks that hold what is asked, else -1."""
    truth = np.full(view.tree.num_blocks, -1.0, dtype=np.float32)
    truth[list(view.ask.needed)] = 1.0
    return truth


def cloze_batch(views: list[View], contexts: list[WorkingContext]) -> tuple[LensInput, Tensor]:
    """Contexts side by side, and labels (B, N) in {0, 1}: whether an entry holds a block that is asked for."""
    given = collate([view.features(context) for view, context in zip(views, contexts, strict=True)])
    labels = torch.zeros(given.present.shape)
    for row, view, context in zip(labels, views, contexts, strict=True):
        row[: len(context)] = torch.from_numpy(
            best_of_blocks(context, block_truth(view), tail=-1.0) > 0
        ).float()
    return given, labels


def cloze_loss(lens: LensNet, given: LensInput, labels: Tensor, miss_weight: float) -> tuple[Tensor, float]:
    """Loss in nats a context, and the share of contexts whose highest entry is a right one."""
    logits = lens(given)
    best = logits.detach().masked_fill(~given.present, -1e4).argmax(dim=1, keepdim=True)
    return lens_loss(logits, labels, given.present, miss_weight), float(labels.gather(1, best).mean())
