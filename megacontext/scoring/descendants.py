"""The best block below every node, so that an entry of any level is scored in one look-up.

A question gives every finished block a number. The number of a coarser node is the largest below it, so that a focus
step can walk from a coarse gist straight down to the block that it is about. Worked out once for a question, level by
level, in time linear in the blocks; after that a context of W entries costs W look-ups, however long the history.
"""

from __future__ import annotations

import numpy as np

from megacontext.focus.context import WorkingContext


class BestBelow:
    """Of every complete node the best block, by `values` (num_blocks,); of equals the first."""

    def __init__(self, values: np.ndarray, block_size: int):
        self._best = [values]
        self._where = [np.arange(len(values), dtype=np.int32)]
        while (parents := len(self._best[-1]) // block_size) > 0:
            family = self._best[-1][: parents * block_size].reshape(parents, block_size)
            best = np.arange(parents) * block_size + family.argmax(axis=1)
            self._best.append(self._best[-1][best])
            self._where.append(self._where[-1][best])

    def values(self, context: WorkingContext, tail: float) -> np.ndarray:
        """The best number below each entry, float32 (N,); `tail` for an unfinished last block."""
        return self._looked_up(self._best, context, np.full(len(context), tail, dtype=np.float32))

    def blocks(self, context: WorkingContext) -> np.ndarray:
        """The best block below each entry that has finished blocks: all but an unfinished tail. int64 (n,)."""
        return self._looked_up(self._where, context, np.empty(num_finished(context), dtype=np.int64))

    @staticmethod
    def _looked_up(levels: list[np.ndarray], context: WorkingContext, found: np.ndarray) -> np.ndarray:
        full = num_finished(context)
        # A raw block is looked up as the gist that it would collapse to.
        level = np.maximum(context.lod[:full], 1) - 1
        for depth in np.unique(level).tolist():
            at = np.flatnonzero(level == depth)
            found[at] = levels[depth][context.index[at]]
        return found


def num_finished(context: WorkingContext) -> int:
    """Entries with finished blocks: all, or all but the last."""
    return len(context) - (context.num_tokens % context.block_size > 0)
