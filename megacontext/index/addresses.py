"""The addresses of all blocks as a float16 matrix in mapped files: matched with a question without being kept in RAM.

Numbers are those of the memory's records, which are float16 as well. A match is computed in float32, a thousand rows
at a time; a half widens to a float by shifting its bits and a factor of 2**112 (the difference of the exponents'
biases), which goes to the question, so that a row costs three passes in cache and a product.

The best block below a coarser node is the maximum of its matches: to be taken over the result, since it is another
with each question (`megacontext.scoring.descendants`).
"""

from __future__ import annotations

import numpy as np

from megacontext.errors import NodeMissingError, ShapeError
from megacontext.index.following import LEAST_IN_FILE, MOST, FollowingIndex
from megacontext.index.segments import Arrays, Segment
from megacontext.tree.memory import Memory

_ROWS_AT_ONCE = 1024
# Of a half in the low bytes of an int32, sign extended and shifted by 13: all but the copies of the sign.
_SIGN_AND_NUMBER = np.int32(-0x7000_2000)
_HALF_TO_FLOAT = np.float32(2.0**112)


class AddressIndex(FollowingIndex):
    """Addresses (num_blocks, A) of the gist version that `memory` reads."""

    def __init__(self, memory: Memory, *, least_in_file: int = LEAST_IN_FILE, most: int = MOST):
        super().__init__(memory, f"addresses-{memory.version.number}", least_in_file=least_in_file, most=most)

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
        scaled = question.astype(np.float32) * _HALF_TO_FLOAT
        bits = np.empty((_ROWS_AT_ONCE, width), dtype=np.int32)
        for segment in self.segments:
            halves = segment.arrays["rows"].view(np.int16)
            for start in range(0, len(halves), _ROWS_AT_ONCE):
                part = halves[start : start + _ROWS_AT_ONCE]
                widened = bits[: len(part)]
                np.copyto(widened, part)
                np.left_shift(widened, 13, out=widened)
                np.bitwise_and(widened, _SIGN_AND_NUMBER, out=widened)
                at = segment.first + start
                np.matmul(widened.view(np.float32), scaled, out=found[at : at + len(part)])
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
        return {"rows": self._memory.addresses(first, stop).astype("<f2")}

    def merge(self, parts: list[Segment]) -> Arrays:
        return {"rows": np.concatenate([part.arrays["rows"] for part in parts])}
