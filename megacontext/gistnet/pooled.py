"""Pooled caches: a block's own keys and values, weighed token by token, become one entry for each layer and head.

What a base model computed for the K tokens of a block is already there; nothing is generated, and the base stays as it
is. Every layer and every key/value head weighs the tokens for itself: a linear score and a small net of key and value,
a bias for the place in the block, all under a learned sharpness. The keys are weighed without their rotation and turned
to where their weight lies, relative to the middle of the block; so a gist stands at the middle, as every entry does,
and a head that chose one token has exactly that token's key. A shift of the keys and a scale of the values make up
for what a mean loses: one entry has to draw the attention that K drew together.

The same holds one level up, of K gists at distances of K tokens: then with weights of its own.

Deliberately knows nothing of models or positions on the timeline: the caller says how keys are turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megacontext.errors import ConfigError, ShapeError

Turn = Callable[[Tensor, Tensor], Tensor]
"""Keys (..., D) and positions (...), in tokens, to the keys turned on by them."""


@dataclass(frozen=True, kw_only=True)
class PooledCacheConfig:
    """How a pooled cache weighs tokens."""

    hidden: int = 32
    """Units of the small net of each head; 0 leaves it out."""
    sharpness: float = 1.0
    """What scores are multiplied by at the start; it is learnt."""
    levels: int = 1
    """Levels with weights of their own; the last serves all above it."""

    def __post_init__(self) -> None:
        if self.hidden < 0 or self.levels < 1 or not self.sharpness > 0:
            raise ConfigError(
                "pooled caches need hidden >= 0, levels >= 1 and a sharpness above 0, got "
                f"{self.hidden}, {self.levels} and {self.sharpness}"
            )


class PooledCache(nn.Module):
    """Keys and values (L, N, K, Hkv, D) of N blocks to entries (L, N, Hkv, D). It starts as the mean of all K."""

    def __init__(self, config: PooledCacheConfig, *, entry_shape: tuple[int, int, int], block_size: int):
        """`entry_shape` is L, Hkv, D of the base model."""
        super().__init__()
        self.config, self.entry_shape, self.block_size = config, entry_shape, block_size
        self.levels = nn.ModuleList(_Level(config, entry_shape, block_size) for _ in range(config.levels))

    def forward(self, keys: Tensor, values: Tensor, turn: Turn, *, lod: int = 1) -> tuple[Tensor, Tensor]:
        """Keys and values of the gists of level `lod` >= 1, (L, N, Hkv, D) each, to stand at the middle of their spans.

        `keys` are unrotated, each as if it stood at position 0. Raises ShapeError.
        """
        layers, heads, width = self.entry_shape
        if (
            keys.shape != values.shape
            or keys.shape[0] != layers
            or lod < 1
            or (tuple(keys.shape[2:]) != (self.block_size, heads, width))
        ):
            raise ShapeError(
                f"a pooled cache of lod >= 1 needs keys and values ({layers}, N, {self.block_size}, {heads}, {width}), "
                f"got {tuple(keys.shape)} and {tuple(values.shape)} for lod {lod}"
            )
        level = self.levels[min(lod, len(self.levels)) - 1]
        weights = level.weights(keys, values)  # (L, N, K, Hkv)
        places = torch.arange(self.block_size, device=keys.device, dtype=weights.dtype)
        middle = (weights * places[:, None]).sum(dim=2) - (self.block_size - 1) / 2  # (L, N, Hkv)
        pooled = torch.einsum("lnkh,lnkhd->lnhd", weights.to(keys.dtype), keys)
        key = turn(pooled, middle * self.block_size ** (lod - 1))
        value = torch.einsum("lnkh,lnkhd->lnhd", weights.to(values.dtype), values)
        return key + level.key_shift[:, None], value * level.value_scale[:, None, :, None]

    def begin_from(self, other: PooledCache) -> None:
        """Take over the levels of a net of the same shape; a level that it lacks begins as the last that it has.

        Both make one entry of K, so what draws attention for K below does above too; only places count anew.
        """
        for number, level in enumerate(self.levels):
            level.load_state_dict(other.levels[min(number, len(other.levels) - 1)].state_dict())
            if number >= len(other.levels):
                nn.init.zeros_(level.place)


class _Level(nn.Module):
    """The weights of one level, for all layers and heads side by side."""

    def __init__(self, config: PooledCacheConfig, entry_shape: tuple[int, int, int], block_size: int):
        super().__init__()
        layers, heads, width = entry_shape
        self.linear = nn.Parameter(torch.zeros(layers, heads, 2 * width))
        self.place = nn.Parameter(torch.zeros(layers, heads, block_size))
        self.log_sharpness = nn.Parameter(torch.full((layers, heads), float(config.sharpness)).log())
        self.key_shift = nn.Parameter(torch.zeros(layers, heads, width))
        self.value_scale = nn.Parameter(torch.ones(layers, heads))
        if config.hidden:
            self.inner = nn.Parameter(
                torch.randn(layers, heads, 2 * width, config.hidden) / (2 * width) ** 0.5
            )
            self.inner_bias = nn.Parameter(torch.zeros(layers, heads, config.hidden))
            # Zero: the net begins to matter only as it learns to.
            self.outer = nn.Parameter(torch.zeros(layers, heads, config.hidden))
        else:
            self.inner = None

    def weights(self, keys: Tensor, values: Tensor) -> Tensor:
        """How much of each token is taken, float32 (L, N, K, Hkv), one in all for each block and head."""
        seen = torch.cat((_normed(keys), _normed(values)), dim=-1).float()  # (L, N, K, Hkv, 2D)
        score = torch.einsum("lnkhd,lhd->lnkh", seen, self.linear)
        if self.inner is not None:
            layers, blocks, size, heads, width = seen.shape
            # One product a head and layer over all tokens of all blocks.
            rows = seen.permute(0, 3, 1, 2, 4).reshape(layers, heads, blocks * size, width)
            hidden = torch.nn.functional.gelu(rows @ self.inner + self.inner_bias[:, :, None])
            added = (hidden @ self.outer[..., None])[..., 0]  # (L, Hkv, N * K)
            score = score + added.view(layers, heads, blocks, size).permute(0, 2, 3, 1)
        score = score + self.place.transpose(1, 2)[:, None]
        return (score * self.log_sharpness.exp()[:, None, None]).softmax(dim=2)


def _normed(x: Tensor) -> Tensor:
    """Each head's vector with a mean square of one: keys and values of different layers differ by tens."""
    return torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)
