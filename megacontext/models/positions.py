"""Where an entry stands for the rotary positions of the base model: a switch with two settings.

`context` counts places in the working context, so a model meets no larger number than its budget, however long the
history. `global` gives an entry the centre of its span on the timeline. Which is better is measured, not decided
here (obsidian/Results.md).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

PositionPolicy = Literal["context", "global"]


def entry_positions(start: np.ndarray, stop: np.ndarray, policy: PositionPolicy) -> np.ndarray:
    """Positions float64 (W,), in tokens, of entries in time order that cover tokens [start, stop)."""
    if policy == "context":
        return np.arange(len(start), dtype=np.float64)
    return (start + stop - 1) / 2
