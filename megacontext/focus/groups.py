"""All that may be collapsed in one working context, with what an allocator asks of it.

A group is a full raw block, which folds into its LOD1 gist, or K sibling gists of one level, which fold into their
parent. Everything is a row over the groups in time order; nothing here loops over them.

Deliberately ignorant of what a score means and of which group ought to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from megacontext.focus.context import WorkingContext


@dataclass(frozen=True, eq=False)
class Groups:
    """The G groups of a context."""

    context: WorkingContext

    @cached_property
    def first(self) -> np.ndarray:
        """First slot of each, int64 (G,): what an Edit names."""
        return self.context.groups()

    @cached_property
    def last(self) -> np.ndarray:
        """Last slot of each, int64 (G,)."""
        return np.where(self.of_gists, self.first + self.context.block_size - 1, self.first)

    @cached_property
    def of_gists(self) -> np.ndarray:
        """Whether it is K gists and not one raw block, bool (G,)."""
        return self.context.lod[self.first] > 0

    @cached_property
    def start(self) -> np.ndarray:
        """First token of each, int64 (G,)."""
        return self.context.start[self.first]

    @cached_property
    def stop(self) -> np.ndarray:
        """One past the last token of each, int64 (G,)."""
        return self.context.stop[self.last]

    @cached_property
    def parent_lod(self) -> np.ndarray:
        """Level of the node that each folds into, int64 (G,)."""
        return self.context.lod[self.first] + 1

    @cached_property
    def parent_index(self) -> np.ndarray:
        """Index of the node that each folds into, int64 (G,)."""
        index = self.context.index[self.first]
        return np.where(self.of_gists, index // self.context.block_size, index)

    @cached_property
    def of_slot(self) -> np.ndarray:
        """The group that each slot is a member of, int64 (W,); -1 for slots of none."""
        of_slot = np.full(len(self.context), -1, dtype=np.int64)
        of_slot[self.first] = np.arange(len(self.first))
        families = np.flatnonzero(self.of_gists)
        of_slot[self._member_slots] = families[:, None]
        return of_slot

    @cached_property
    def _member_slots(self) -> np.ndarray:
        """Slots of the groups of gists, int64 (G of gists, K)."""
        return self.first[self.of_gists][:, None] + np.arange(self.context.block_size)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the members of each group of `values` (W,), float64 (G,)."""
        mean = values[self.first]  # a copy; right for a raw block, which is alone
        mean[self.of_gists] = values[self._member_slots].mean(axis=1)
        return mean

    def highest(self, values: np.ndarray) -> np.ndarray:
        """Highest of the members of each group of `values` (W,), like `values` (G,)."""
        highest = values[self.first]
        # A shape of (0, K) has a maximum along K, which is empty, as long as K is not 0.
        highest[self.of_gists] = values[self._member_slots].max(axis=1)
        return highest
