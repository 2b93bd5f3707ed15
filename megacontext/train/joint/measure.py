"""What gists are worth on a book that was never trained on, at equal positions.

Each window is [distant blocks | recent blocks | horizon], and each arm reads the recent blocks as tokens and spends on
the distant ones what it may:

- **full**: all of them as tokens, beyond the budget: what there is to be had.
- **gists**: one position a block. **mean**: the same positions, the mean of the block's embeddings. **wrong**: gists
  of the same places of another window, half the book away.
- **drop**: as many more recent tokens instead. **none**: nothing.

Figures are nats a token of the horizon, paired over windows, with standard errors of the differences. Read a gist's
figure only where the headroom, drop minus full, is 0.1 nat or more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from megacontext.errors import ConfigError
from megacontext.focus.context import WorkingContext
from megacontext.runtime.bundle import Bundle
from megacontext.train.joint.build import Tree, build
from megacontext.train.joint.config import MeasureConfig
from megacontext.train.joint.horizon import Row, nats_of
from megacontext.train.joint.passages import Ask

ARMS = ("full", "gists", "mean", "wrong", "drop", "none")
DIFFERENCES = (("gists", "drop"), ("gists", "mean"), ("wrong", "gists"), ("drop", "full"))


def window_starts(num_tokens: int, config: MeasureConfig, block_size: int) -> np.ndarray:
    """Where the windows begin, evenly over a text, int64 (n,). Raises ConfigError for a text that is too short."""
    length = (config.distant_blocks + config.recent_blocks) * block_size + config.horizon
    if num_tokens < 2 * length:
        raise ConfigError(
            f"the held-out book must have {2 * length:,} tokens, two windows, got {num_tokens:,}; give a longer one"
        )
    return np.linspace(0, num_tokens - length, min(config.windows, num_tokens // length)).astype(np.int64)


def measured_nats(
    bundle: Bundle, ids: np.ndarray, config: MeasureConfig, arms: tuple[str, ...] = ARMS
) -> dict[str, np.ndarray]:
    """Nats a token of each of `arms` on each window of a text, float64 (n,)."""
    size, distant = bundle.config.block_size, config.distant_blocks
    history = (distant + config.recent_blocks) * size
    starts = window_starts(len(ids), config, size)
    histories = [ids[start : start + history] for start in starts]
    asks = [_foretell(ids[start + history :][: config.horizon]) for start in starts]
    with torch.no_grad():
        trees = build(bundle, histories)
    folded = WorkingContext(
        np.repeat([1, 0], [distant, config.recent_blocks]), np.arange(history // size), history, size
    )

    def rows(arm: str) -> list[Row]:
        if arm == "drop":
            return [
                _recent(*one, config.recent_blocks * size + distant) for one in zip(trees, asks, strict=True)
            ]
        if arm == "none":
            return [_recent(*one, config.recent_blocks * size) for one in zip(trees, asks, strict=True)]
        read = trees
        if arm == "mean":
            with torch.no_grad():
                read = [_with_means(tree, bundle) for tree in trees]
        elif arm == "wrong":
            half = len(trees) // 2
            others = [*trees[half:], *trees[:half]]
            read = [replace(tree, levels=other.levels) for tree, other in zip(trees, others, strict=True)]
        context = WorkingContext.raw(history, size) if arm == "full" else folded
        return [Row(tree, context, ask) for tree, ask in zip(read, asks, strict=True)]

    return {arm: nats_of(rows(arm), bundle.base, bundle.config.positions) / config.horizon for arm in arms}


def gist_figures(nats: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means of the arms, and the differences that matter with their standard errors, all in nats a token."""
    figures: dict[str, Any] = {f"{arm}_nats": float(nats[arm].mean()) for arm in ARMS}
    for one, other in DIFFERENCES:
        name = f"{one}_minus_{other}"
        figures[f"{name}_nats"], figures[f"{name}_se"] = difference(nats, one, other)
    return figures | {"windows": len(nats["full"])}


def difference(nats: dict[str, np.ndarray], one: str, other: str) -> tuple[float, float]:
    """How much more one arm pays than another, nats a token, and the standard error of that over the windows."""
    apart = nats[one] - nats[other]
    return float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))


def _foretell(horizon: np.ndarray) -> Ask:
    nothing = np.zeros(0, dtype=horizon.dtype)
    return Ask(nothing, horizon, nothing)


def _recent(tree: Tree, ask: Ask, tokens: int) -> Row:
    """The last `tokens` of a history, as tokens."""
    own = replace(tree, history=tree.history[-tokens:])
    return Row(own, WorkingContext.raw(len(own.history), tree.block_size), ask)


def _with_means(tree: Tree, bundle: Bundle) -> Tree:
    blocks = tree.history[: tree.num_blocks * tree.block_size].reshape(-1, tree.block_size).astype(np.int64)
    return replace(tree, levels=(bundle.base.embed(torch.from_numpy(blocks)).mean(dim=1), *tree.levels[1:]))
