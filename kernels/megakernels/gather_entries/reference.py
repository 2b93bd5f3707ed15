"""Rows of two tables in one order, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def gather(source: Tensor, table: Tensor, stored: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """source (W,), table (V, E), stored (G, E), scale (G,) or None -> (W, E) of `dtype`."""
    if not len(stored):
        return table[source].to(dtype)
    gist = (-source - 1).clamp_min(0)
    vectors = stored[gist].float()
    if scale is not None:
        vectors = vectors * scale[gist, None].float()
    tokens = table[source.clamp_min(0)] if len(table) else vectors
    return torch.where((source >= 0)[:, None], tokens.to(dtype), vectors.to(dtype))
