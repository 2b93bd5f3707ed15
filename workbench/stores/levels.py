"""A value for every node of a tree, and what of it can be told apart in a visible range.

A history of ten million tokens has 312,500 blocks and a screen some 1,200 columns. So a level keeps one number per
node, and a range is cut into at most so many columns, computed when it comes into sight: the highest value of the nodes
in a column (what shines from afar is found by zooming in), or, where values name classes, that of its middle node.

Deliberately ignorant of what the values mean and of how they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from megacontext.errors import ShapeError
from megacontext.spans import Node, complete_counts

MAX_COLUMNS = 1_200
"""About the pixels that a page is wide."""

Kind = Literal["number", "class"]


@dataclass(frozen=True)
class Levels:
    """Values of all complete nodes of LOD 1 and up: `values[l - 1]` is float32 (nodes of LOD l,), nan for none.

    A token has the value of its block.
    """

    num_tokens: int
    block_size: int
    values: tuple[np.ndarray, ...]
    kind: Kind = "number"

    @classmethod
    def of_blocks(cls, blocks: np.ndarray, num_tokens: int, block_size: int, kind: Kind = "number") -> Levels:
        """From one value per finished block; a coarser node has the highest below it, of a class the middle one.

        Blocks that came after the values were computed have none. Raises ShapeError for more values than blocks.
        """
        counts = complete_counts(num_tokens, block_size)[1:]
        have = counts[0] if counts else 0
        blocks = np.asarray(blocks, dtype=np.float32)
        if blocks.ndim != 1 or len(blocks) > have:
            raise ShapeError(
                f"a tree has one value per finished block, {num_tokens} tokens have {have}, got {blocks.shape}; "
                "pass the values of this history"
            )
        level = np.full(have, np.nan, dtype=np.float32)
        level[: len(blocks)] = blocks
        values = [level] if counts else []
        for count in counts[1:]:
            groups = values[-1][: count * block_size].reshape(-1, block_size)
            values.append(
                np.fmax.reduce(groups, axis=1) if kind == "number" else groups[:, block_size // 2].copy()
            )
        return cls(num_tokens, block_size, tuple(values), kind)

    @classmethod
    def of_nodes(
        cls, lod: np.ndarray, index: np.ndarray, value: np.ndarray, num_tokens: int, block_size: int
    ) -> Levels:
        """From the values of some nodes of LOD >= 1, each level for itself; nodes that do not exist are left out."""
        counts = complete_counts(num_tokens, block_size)[1:]
        values = [np.full(count, np.nan, dtype=np.float32) for count in counts]
        for level, into in enumerate(values, start=1):
            here = (lod == level) & (index >= 0) & (index < len(into))
            into[index[here]] = value[here]
        return cls(num_tokens, block_size, tuple(values))

    @property
    def top(self) -> int:
        """The highest level that has a complete node; 0 for a history of less than a block."""
        return len(self.values)

    def value(self, node: Node) -> float:
        """Of one node; nan where there is none, and beyond the history."""
        lod, index = (1, node.index // self.block_size) if node.lod == 0 else node
        if not 1 <= lod <= self.top or not 0 <= index < len(self.values[lod - 1]):
            return float("nan")
        return float(self.values[lod - 1][index])

    def limits(self) -> tuple[float, float]:
        """The middle 98 % of the blocks' values (or of all, where blocks have none); never empty.

        So a single outlier does not flatten the rest; the highest one stays in, for it is what is looked for.
        """
        for level in self.values:
            finite = level[np.isfinite(level)]
            if len(finite):
                low, high = float(np.quantile(finite, 0.01)), float(finite.max())
                return (low, high) if high > low else (low - 0.5, low + 0.5)
        return 0.0, 1.0

    def cells(self, start: float, stop: float, max_columns: int = MAX_COLUMNS) -> pl.DataFrame:
        """What is to be seen of tokens [start, stop): one row per column of every level, coarse levels first.

        Columns: `lod`, `first` and `last` (the nodes [first, last) that it stands for), `x0`, `x1` (tokens), `value`.
        Tokens come as LOD 0 where each has a column of its own.
        """
        parts = []
        for lod in range(self.top, -1, -1):
            width = self.block_size**lod
            count = self.num_tokens // width
            first = min(max(int(start // width), 0), count)
            last = min(max(int(-(-stop // width)), first), count)
            if last == first or (lod == 0 and last - first > max_columns):
                continue
            parts.append(self._row(lod, first, last, max_columns))
        return pl.concat(parts) if parts else pl.DataFrame(schema=CELL_COLUMNS)

    def strongest(self, lod: int, first: int, last: int) -> Node:
        """The node of [first, last) whose value a column of them shows."""
        if lod == 0 or last - first <= 1:
            return Node(lod, first)
        values = self.values[lod - 1][first:last]
        if self.kind == "class" or not np.isfinite(values).any():
            return Node(lod, first + (last - first) // 2)
        return Node(lod, first + int(np.nanargmax(values)))

    def _row(self, lod: int, first: int, last: int, max_columns: int) -> pl.DataFrame:
        count = last - first
        edges = np.arange(count + 1)
        if count > max_columns:
            edges = np.linspace(0, count, max_columns + 1).astype(np.int64)
        begins, ends = edges[:-1] + first, edges[1:] + first
        if lod == 0:
            blocks = np.arange(first, last) // self.block_size
            known = self.values[0] if self.values else np.empty(0, dtype=np.float32)
            # The unfinished block at the end has no value yet.
            shown = np.append(known, np.float32(np.nan))[np.minimum(blocks, len(known))]
        elif count <= max_columns:
            shown = self.values[lod - 1][first:last]
        elif self.kind == "class":
            shown = self.values[lod - 1][begins + (ends - begins) // 2]
        else:
            shown = np.fmax.reduceat(self.values[lod - 1][first:last], edges[:-1])
        width = self.block_size**lod
        return pl.DataFrame(
            {
                "lod": np.full(len(begins), lod, dtype=np.int64),
                "first": begins.astype(np.int64),
                "last": ends.astype(np.int64),
                "x0": begins * float(width),
                "x1": ends * float(width),
                "value": shown.astype(np.float64),
            }
        )


CELL_COLUMNS: dict[str, pl.DataType] = {
    "lod": pl.Int64(), "first": pl.Int64(), "last": pl.Int64(), "x0": pl.Float64(), "x1": pl.Float64(),
    "value": pl.Float64(),
}  # fmt: skip
