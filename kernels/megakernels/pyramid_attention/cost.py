"""How much is seen, and the sliding window that sees as much: counted query by query."""

from __future__ import annotations

import torch

from megakernels.pyramid_attention.rule import Pyramid, Queries
from megakernels.pyramid_attention.sight import Sight, sight


def whole_sight(rule: Pyramid, num_tokens: int, device: torch.device | None = None) -> Sight:
    """What is seen where all tokens and summaries ask, as in training."""
    asked = [Queries(level, 0, count) for level, count in enumerate(rule.count(num_tokens))]
    return sight(rule, num_tokens, asked, None, device or torch.device("cpu"))


def pairs_of(seen: Sight) -> int:
    """Rows seen, summed over all queries, of one head."""
    return int(seen.runs.diff(dim=-1).sum())


def most_seen(seen: Sight) -> int:
    """Rows that a query sees at most; 0 without queries."""
    rows = seen.runs.diff(dim=-1).sum(dim=(-2, -1))
    return int(rows.max()) if rows.numel() else 0


def equal_window(pairs: int, num_tokens: int) -> int:
    """The sliding window with which a causal pass over `num_tokens` sees as many pairs, to within one of each query.

    A query sees itself and what lies before, `window` rows in all.
    """
    low, high = 1, num_tokens
    while low < high:
        middle = (low + high) // 2
        # A query with i before it sees min(i + 1, window).
        seen = middle * (middle + 1) // 2 + (num_tokens - middle) * middle
        low, high = (middle + 1, high) if seen < pairs else (low, middle)
    return low
