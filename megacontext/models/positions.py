"""Where an entry stands for the rotary positions of the base model: a switch with three settings.

`context` counts places in the working context, so a model meets no larger number than its budget, however long the
history. `spread` does so too, but a gist takes as many places as a block has tokens and stands in their middle: entries
of keys and values were made at such distances. `global` gives an entry the centre of its span on the timeline. Which is
better is measured, not decided here: obsidian/results/Results.md and
obsidian/architecture/Reading with a frozen decoder.md.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

PositionPolicy = Literal["context", "spread", "global"]


def entry_positions(
    start: np.ndarray, stop: np.ndarray, policy: PositionPolicy, block_size: int = 32
) -> np.ndarray:
    """Positions float64 (W,), in tokens, of entries in time order that cover tokens [start, stop).

    `block_size` is how many places a gist takes at most where it is spread.
    """
    if policy == "context":
        return np.arange(len(start), dtype=np.float64)
    if policy == "spread":
        taken = np.minimum(stop - start, block_size).astype(np.float64)
        return np.cumsum(taken) - (taken + 1) / 2
    return (start + stop - 1) / 2
