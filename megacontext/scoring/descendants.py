"""The best block below every node, so that an entry of any level is scored in one look-up.

A question gives every finished block a number. The number of a coarser node is the largest below it, so that a focus
step can walk from a coarse gist straight down to the block that it is about. The numbers are worked out once for a
question, level by level, in time linear in the blocks; after that an entry costs a look-up, or one a level for the
block itself, however long the history.
"""

from __future__ import annotations

import numpy as np

from megacontext.focus.context import WorkingContext


class BestBelow:
    """Of every complete node the best block, by `values` (num_blocks,); of equals the first."""

    def __init__(self, values: np.ndarray, block_size: int):
        self._size = block_size
        self._best = [values]
        while (parents := len(self._best[-1]) // block_size) > 0:
            below = self._best[-1][: parents * block_size]
            self._best.append(_largest(below, block_size))

    def values(self, context: WorkingContext, tail: float) -> np.ndarray:
        """The best number below each entry, float32 (N,); `tail` for an unfinished last block."""
        found = np.full(len(context), tail, dtype=np.float32)
        level, index = _nodes(context)
        for depth in np.unique(level).tolist():
            at = np.flatnonzero(level == depth)
            found[at] = self._best[depth][index[at]]
        return found

    def blocks(self, context: WorkingContext) -> np.ndarray:
        """The best block below each entry that has finished blocks: all but an unfinished tail. int64 (n,)."""
        level, index = _nodes(context)
        # Down from each node to the child that has its number, all that stand at a level or came to it at once.
        for depth in range(int(level.max(initial=0)), 0, -1):
            at = np.flatnonzero(level >= depth)
            children = index[at, None] * self._size + np.arange(self._size)
            index[at] = children[np.arange(len(at)), self._best[depth - 1][children].argmax(axis=1)]
        return index


def _largest(values: np.ndarray, family: int) -> np.ndarray:
    """The largest of every `family` neighbours of values (n * family,). float32 (n,)."""
    # Pairs by pairs: a maximum along so short an axis takes numpy eight times as long.
    while family % 2 == 0:
        values, family = np.maximum(values[0::2], values[1::2]), family // 2
    return values if family == 1 else values.reshape(-1, family).max(axis=1)


def _nodes(context: WorkingContext) -> tuple[np.ndarray, np.ndarray]:
    """Of each entry with finished blocks: levels above a block, and index in that level. int64 (n,), copies."""
    full = num_finished(context)
    # A raw block is looked up as the gist that it would collapse to.
    return np.maximum(context.lod[:full], 1) - 1, context.index[:full].copy()


def num_finished(context: WorkingContext) -> int:
    """Entries with finished blocks: all, or all but the last."""
    return len(context) - (context.num_tokens % context.block_size > 0)
