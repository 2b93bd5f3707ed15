"""Softmax-weighted sums over the members of each block, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(x: Tensor, logits: Tensor | None) -> Tensor:
    """x (N, K, H, D), logits (N, K, H) or None for plain means -> (N, H, D) in x's type."""
    kind = torch.promote_types(x.dtype, torch.float32)
    if logits is None:
        return x.to(kind).mean(dim=1).to(x.dtype)
    weights = torch.softmax(logits.to(kind), dim=1)
    return torch.einsum("nkh,nkhd->nhd", weights, x.to(kind)).to(x.dtype)
