"""GistNet: K embeddings in, one embedding out, at any level of the tree.

An embedding gist lives in the base model's input space and takes one position of its context. The net begins as the
mean of its inputs (published work finds the mean hard to beat: 2504.08934, 2510.20797) and learns a correction: its
last layer starts at zero. One net serves every level; a learned vector tells it whether it reads tokens or
gists.

Deliberately knows nothing of the tree: it never learns where its block stood.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megacontext.attention.encoder import EncoderLayer
from megacontext.errors import ConfigError, ShapeError

_KNOWN_LEVELS = 2
"""Level vectors: 1 = made of tokens, 2 = made of gists."""


@dataclass(frozen=True, kw_only=True)
class GistNetConfig:
    """Size of the correction net; its width is the base model's."""

    layers: int = 1
    heads: int = 4
    expansion: int = 2

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.expansion) < 1:
            raise ConfigError(
                "gistnet.layers, heads and expansion must be at least 1; raise the one that is not"
            )


class GistNet(nn.Module):
    """(N, K, E) -> (N, E)."""

    def __init__(self, config: GistNetConfig, *, width: int, block_size: int):
        super().__init__()
        self.config, self.width, self.block_size = config, width, block_size
        self.place = nn.Parameter(torch.randn(block_size, width) * 0.02)
        self.level = nn.Parameter(torch.randn(_KNOWN_LEVELS, width) * 0.02)
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.heads, config.expansion) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, children: Tensor, lod: int) -> Tensor:
        """Gists (N, E) of level `lod` >= 1 from their children (N, K, E): token embeddings at 1, gists above."""
        if children.shape[1:] != (self.block_size, self.width) or lod < 1:
            raise ShapeError(
                f"a gist of lod >= 1 needs children (N, {self.block_size}, {self.width}), "
                f"got {tuple(children.shape)} for lod {lod}"
            )
        mean = children.mean(dim=1)
        x = children + self.place + self.level[min(lod, _KNOWN_LEVELS) - 1]
        for layer in self.layers:
            x = layer(x)
        return mean + self.head(self.norm(x.mean(dim=1)))
