"""GistNet: K embeddings in, one embedding out, at any level of the tree.

An embedding gist lives in the base model's input space and takes one position of its context. The net begins as the
mean of its inputs (published work finds the mean hard to beat: 2504.08934, 2510.20797) and learns a correction: its
last layer starts at zero. One net serves every level; a learned vector tells it whether it reads tokens or
gists.

A family behind one configuration: the mean alone; a transformer over the block whose outputs are averaged, weighed by
a learned query, or gathered by vectors that stand before the block and look at all of it (CLS); a linear head or one
with a hidden layer; a gist of one vector or of k slots. A gist of k slots costs k positions; each slot begins as
the mean of its share of the block. Trees keep one vector a node, so slots are for those who read `gists` themselves.

Deliberately knows nothing of the tree: it never learns where its block stood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from megacontext.attention.encoder import EncoderLayer
from megacontext.errors import ConfigError, ShapeError

_KNOWN_LEVELS = 2
"""Level vectors: 1 = made of tokens, 2 = made of gists."""


@dataclass(frozen=True, kw_only=True)
class GistNetConfig:
    """Kind and size of the correction net; its width is the base model's."""

    layers: int = 1
    heads: int = 4
    expansion: int = 2
    correction: Literal["transformer", "none"] = "transformer"
    """What is added to the mean; with "none" the mean is all, and nothing is trained."""
    pooling: Literal["mean", "query", "cls"] = "mean"
    """How the transformer's outputs become a gist: their mean, weighed by a learned query, or vectors of its own that
    look at the block."""
    slots: int = 1
    """Vectors, and so positions, of one gist."""
    head: Literal["linear", "mlp"] = "linear"
    mean_start: bool = True
    """Begin as the mean and learn what to add; else begin at random, as nets of the first notebooks did."""

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.expansion) < 1:
            raise ConfigError(
                "gistnet.layers, heads and expansion must be at least 1; raise the one that is not"
            )
        if self.slots < 1:
            raise ConfigError(
                f"gistnet.slots must be at least 1, got {self.slots}; one vector is the usual gist"
            )
        if self.correction == "none" and not self.mean_start:
            raise ConfigError(
                "a gist without a correction is the mean, gistnet.mean_start must be true with it, got false; "
                "choose the transformer or the mean"
            )


class GistNet(nn.Module):
    """(N, K, E) -> (N, E), or (N, slots, E)."""

    def __init__(self, config: GistNetConfig, *, width: int, block_size: int):
        super().__init__()
        if block_size % config.slots:
            raise ConfigError(
                f"gistnet.slots must divide the block size, got {config.slots} for blocks of {block_size}; change it"
            )
        self.config, self.width, self.block_size = config, width, block_size
        if config.correction == "none":
            return
        self.place = nn.Parameter(torch.randn(block_size, width) * 0.02)
        self.level = nn.Parameter(torch.randn(_KNOWN_LEVELS, width) * 0.02)
        if config.slots > 1:
            self.slot = nn.Parameter(torch.randn(config.slots, width) * 0.02)
        if config.pooling != "mean":
            # Larger than the places: slots that begin alike would have the same gradients.
            self.seeker = nn.Parameter(torch.randn(config.slots, width) * width**-0.5)
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.heads, config.expansion) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        last = nn.Linear(width, width)
        if config.mean_start:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.head: nn.Module = last
        if config.head == "mlp":
            self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), last)

    def forward(self, children: Tensor, lod: int) -> Tensor:
        """Gists (N, E) of level `lod` >= 1 from their children (N, K, E): token embeddings at 1, gists above.

        Raises ShapeError for children of another shape, and where a gist is more than one vector.
        """
        if self.config.slots > 1:
            raise ShapeError(
                f"a gist of one vector needs gistnet.slots = 1, this net makes {self.config.slots} a block; "
                "read them with gists(), or train a net with one slot"
            )
        return self.gists(children, lod)[:, 0]

    def gists(self, children: Tensor, lod: int) -> Tensor:
        """Gists (N, slots, E) of level `lod` from token embeddings (N, K, E) at 1, from gists (N, K, slots, E) above.

        With one slot, gists may come as (N, K, E) too. Raises ShapeError.
        """
        slots, each = self.config.slots, self.config.slots if lod > 1 else 1
        if slots == 1 and children.ndim == 4:
            children = children.flatten(1, 2)
        fits = (self.block_size, self.width) if each == 1 else (self.block_size, each, self.width)
        if lod < 1 or children.shape[1:] != fits:
            raise ShapeError(
                f"a gist of lod >= 1 needs children (N, {', '.join(map(str, fits))}), "
                f"got {tuple(children.shape)} for lod {lod}"
            )
        rows = children if each == 1 else children.flatten(1, 2)  # (N, S, E), S = K * each
        mean = self._shares(rows)
        if self.config.correction == "none":
            return mean
        correction = self.head(self.norm(self._pooled(rows, each, lod)))
        return mean + correction if self.config.mean_start else correction

    def _shares(self, rows: Tensor) -> Tensor:
        """The mean of each slot's share, (N, slots, E)."""
        return rows.unflatten(1, (self.config.slots, -1)).mean(dim=2)

    def _pooled(self, rows: Tensor, each: int, lod: int) -> Tensor:
        """What the transformer says of all rows (N, S, E), for each slot: (N, slots, E)."""
        place = self.place if each == 1 else (self.place[:, None] + self.slot).flatten(0, 1)
        x = rows + place + self.level[min(lod, _KNOWN_LEVELS) - 1]
        pooling, slots = self.config.pooling, self.config.slots
        if pooling == "cls":
            x = torch.cat((self.seeker.expand(len(x), -1, -1), x), dim=1)
        for layer in self.layers:
            x = layer(x)
        if pooling == "cls":
            return x[:, :slots]
        if pooling == "mean":
            return self._shares(x)
        weights = (self.norm(x) @ self.seeker.T).softmax(dim=1)  # (N, S, slots)
        return weights.transpose(1, 2) @ x
