"""What attention has to do at least: the products and bytes that no way of computing it saves, and how cost grows.

Counted from what is seen, query by query, not from what a kernel happens to compute: blocks that are only partly seen
count for what is seen of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One call."""

    pairs: int
    """Queries times what each sees, of one head."""
    flops: float
    bytes: float


def work_of(
    pairs: int,
    queries: int,
    rows: int,
    *,
    heads: int,
    shared: int,
    width: int,
    item_bytes: int,
    backward: bool,
) -> Work:
    """Two products of a pair and head, forward, and five more backward; inputs and results once over the memory.

    The backward pass reads what the forward pass read and wrote, and writes a gradient for each input.
    """
    products = 7 if backward else 2
    tensors = queries * heads * width, rows * shared * width
    moved = 2 * tensors[0] + 2 * tensors[1]  # q and the result, keys and values
    if backward:
        moved += (
            4 * tensors[0] + 4 * tensors[1]
        )  # q, result, its gradient, keys, values; three gradients written
    return Work(pairs, 2.0 * products * pairs * heads * width, float(moved * item_bytes))


def slope(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """The exponent with which time grows with length: least squares over the logarithms. Not a number below two."""
    if len(lengths) < 2:
        return math.nan
    x, y = [math.log(one) for one in lengths], [math.log(one) for one in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True))
    return across / sum((one - mean_x) ** 2 for one in x)
