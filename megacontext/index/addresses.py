"""The addresses of all blocks as a float32 matrix in mapped files: matched with a question without being kept in RAM.

Records hold halves. They are widened once, when a segment is made, and not with each question: a match is then one
product that is bound by reading memory, at twice the bytes and half the time. It goes in strips, too small for
BLAS to set threads of its own on: those would keep a core from the model's threads for milliseconds afterwards.

The best block below a coarser node is the maximum of its matches: to be taken over the result, since it is another
with each question (`megacontext.scoring.descendants`).
"""

from __future__ import annotations

import numpy as np

from megacontext.errors import NodeMissingError, ShapeError
from megacontext.index.following import LEAST_IN_FILE, MOST, FollowingIndex
from megacontext.index.segments import Arrays, Segment
from megacontext.tree.memory import Memory

_ROWS_AT_ONCE = 4096


class AddressIndex(FollowingIndex):
    """Addresses (num_blocks, A) of the gist version that `memory` reads."""

    def __init__(self, memory: Memory, *, least_in_file: int = LEAST_IN_FILE, most: int = MOST):
        kind = f"addresses-{memory.version.number}"
        super().__init__(memory, kind, "float32", least_in_file=least_in_file, most=most)

    @classmethod
    def of(cls, memory: Memory) -> AddressIndex:
        """The one index of an open memory, up to date."""
        index = memory.derived(cls, lambda: cls(memory))
        index.follow()
        return index

    def matches(self, question: np.ndarray) -> np.ndarray:
        """Dot product of every block's address with the question's, (A,) -> float32 (num_blocks,).

        Raises ShapeError for a question of another width.
        """
        width = self._memory.address_width
        if question.shape != (width,):
            raise ShapeError(
                f"a question's address must have the width of the blocks' addresses, {width}, got "
                f"{question.shape}; encode it with the memory's encoder"
            )
        found = np.empty(self.num_blocks, dtype=np.float32)
        asked = question.astype(np.float32)
        for segment in self.segments:
            rows, into = segment.arrays["rows"], found[segment.first : segment.stop]
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                at = slice(start, start + _ROWS_AT_ONCE)
                np.matmul(rows[at], asked, out=into[at])
        return found

    def rows(self, blocks: np.ndarray) -> np.ndarray:
        """Addresses of blocks, int (n,) -> float32 (n, A), in the order asked for. Raises NodeMissingError."""
        if len(blocks) and not 0 <= blocks.min() <= blocks.max() < self.num_blocks:
            raise NodeMissingError(
                f"blocks of this index lie in [0, {self.num_blocks}), got {blocks.min()} to {blocks.max()}; "
                "ask for those that are finished"
            )
        found = np.empty((len(blocks), self._memory.address_width), dtype=np.float32)
        for segment in self.segments:
            inside = np.flatnonzero((blocks >= segment.first) & (blocks < segment.stop))
            found[inside] = segment.arrays["rows"][blocks[inside] - segment.first]
        return found

    def make(self, first: int, stop: int) -> Arrays:
        return {"rows": self._memory.addresses(first, stop).astype("<f4")}

    def merge(self, parts: list[Segment]) -> Arrays:
        return {"rows": np.concatenate([part.arrays["rows"] for part in parts])}
