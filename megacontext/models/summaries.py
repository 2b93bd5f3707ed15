"""The summaries of a context: wLOD1 of blocks of entries, wLOD2 of those, made by GistNet from what the model reads.

A summary stands where its children stand on average; how uncertain that is follows from theirs by the law of total
variance, so that over tokens one apart a summary of w of them has (w^2 - 1) / 12. How much of that counts is learnt:
the variance's scale begins at 1.

Beside them may stand slots (persistent memory, Sukhbaatar et al. 2019): keys and values of each layer that are learnt
and belong to no entry. They stand where the context begins.

Deliberately knows nothing of which query sees which summary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from megacontext.attention.rotary import rotate
from megacontext.gistnet.gist import GistNet
from megacontext.models.pointwise import rms_norm


class Level(NamedTuple):
    """Neighbouring entries of one level, tokens or summaries."""

    vectors: Tensor
    """(B, n, E), in the input space."""
    mean: Tensor
    """float64 (B or 1, n): where each stands, in tokens."""
    variance: Tensor
    """float64 (B or 1, n), in tokens squared; 0 for what is no span."""


class Slots(nn.Module):
    """Learnt keys and values. They begin with keys at random and values of zero, as a place to look at nothing."""

    def __init__(self, layers: int, slots: int, heads: int, width: int):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(layers, slots, heads, width))
        self.values = nn.Parameter(torch.zeros(layers, slots, heads, width))

    def of_layer(self, layer: int, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values (B or 1, slots, Hkv, D) of a layer, turned to where `tables` (B or 1, 1, 1, D/2) say."""
        keys = rms_norm(self.keys[layer]).expand(len(tables[0]), -1, -1, -1)
        return rotate(keys, tables), self.values[layer][None]


class Summaries(nn.Module):
    """All that a pyramid adds to a model: children to parents, the scale of a span's uncertainty, and slots."""

    def __init__(self, gistnet: GistNet, *, uncertain: bool, slots: Slots | None = None):
        super().__init__()
        self.gistnet, self.slots = gistnet, slots
        self.log_variance_scale = nn.Parameter(torch.zeros(1)) if uncertain else None

    @property
    def block(self) -> int:
        """K, children of one summary."""
        return self.gistnet.block_size

    def parents(self, children: Level, level: int) -> Level:
        """Summaries of `level` >= 1, n / K of them, of n children of the level below."""
        batch, _, width = children.vectors.shape
        blocks = children.vectors.reshape(-1, self.block, width)
        vectors = self.gistnet(blocks, level).view(batch, -1, width)
        mean, variance = (one.unflatten(1, (-1, self.block)) for one in (children.mean, children.variance))
        middle = mean.mean(dim=2)
        spread = (mean - middle[..., None]).square() + variance
        return Level(vectors, middle, spread.mean(dim=2))

    def variance(self, spread: Tensor) -> Tensor | None:
        """What counts of the variances `spread`; None where places count as certain."""
        if self.log_variance_scale is None:
            return None
        return spread * self.log_variance_scale.double().exp()
