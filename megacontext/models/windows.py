"""Which entries a layer sees: causality, its window, and padding, as what scaled_dot_product_attention takes.

Worked out once for each window length of a model and shared by its layers. Where plain causal attention serves, or
where a single query sees all there is, there is no mask at all.

Windows count entries, whatever an entry stands for. Deliberately knows nothing of positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Sight:
    """What the W queries of a forward pass see of the keys that there are."""

    first: int
    """Keys before this one are seen by no query, and are left out."""
    mask: Tensor | None
    """bool (B or 1, 1, W, keys - first): True where a query may look; None where `causal` says it all."""
    causal: bool
    """Without a mask: whether query i sees keys 0..i, or every query sees all."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """q (B, W, H, D), k and v (B, keys - first, Hkv, D) -> (B, W, H, D)."""
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=self.mask,
            is_causal=self.causal,
            scale=scale,
            enable_gqa=q.shape[2] != k.shape[2],
        )
        return y.transpose(1, 2)


def sight(window: int | None, past: int, entries: int, allowed: Tensor | None, device: torch.device) -> Sight:
    """Sight of `entries` queries that follow `past` others, each seeing `window` entries before its own; None is all.

    `allowed` bool (B, past + entries) is False for padding; None says that there is none.
    """
    stop = past + entries
    first = 0 if window is None else max(0, past - window)
    if allowed is None:
        if entries == 1:
            return Sight(first, None, causal=False)
        if past == 0 and (window is None or entries <= window + 1):
            return Sight(0, None, causal=True)
    query = torch.arange(past, stop, device=device)[:, None]
    key = torch.arange(first, stop, device=device)[None, :]
    mask = key <= query
    if window is not None:
        mask &= key >= query - window
    mask = mask[None, None]
    if allowed is not None:
        # A padded query sees itself, so that its softmax has something to sum; nobody reads the result.
        mask = (mask & allowed[:, None, None, first:]) | (key == query)
    return Sight(first, mask, causal=False)


def sight_of_rows(window: int | None, lengths: list[int], at: Tensor) -> Sight:
    """Sight of one query a row, behind rows of these `lengths`; `at` is the same as a tensor, int64 (B,)."""
    stop = max(lengths) + 1
    first = 0 if window is None else max(0, min(lengths) - window)
    key = torch.arange(first, stop, device=at.device)[None, :]
    mask = key <= at[:, None]
    if window is not None:
        mask &= key >= at[:, None] - window
    return Sight(first, mask[:, None, None], causal=False)
