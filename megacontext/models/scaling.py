"""The size of a model before it exists: its shape from its depth, its parameters, its arithmetic per token.

nanochat describes a model by its depth alone and derives the rest; the rules differ between its generations
(obsidian/architecture/Base models.md). Arithmetic is counted as in PaLM (2204.02311, appendix B): six operations per
weight of a matrix and token for forward and backward, and twelve per head dimension and visible key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from megacontext.errors import ConfigError
from megacontext.models.gpt import GPT, GPTConfig


def shape_of_depth(
    depth: int,
    dialect: str,
    *,
    vocab_size: int,
    sequence_len: int,
    window_pattern: str,
    aspect: int = 64,
    head: int = 128,
) -> GPTConfig:
    """The shape that nanochat gives a model of `depth` layers. `aspect` and `head` are its aspect-ratio and head-dim.

    In the classic generation the width is depth * 64 whatever the heads, of which there are as few as make none wider
    than 128; since then the width is rounded up to a multiple of the head. Raises ConfigError.
    """
    if min(depth, aspect, head) < 1:
        raise ConfigError(
            f"depth, aspect-ratio and head-dim must be at least 1, got {depth}, {aspect} and {head}; raise it"
        )
    width = depth * aspect
    heads = max(1, math.ceil(width / head))
    if dialect != "classic":
        width = heads * head
    return GPTConfig(
        dialect=dialect,
        sequence_len=sequence_len,
        vocab_size=vocab_size,
        n_layer=depth,
        n_head=heads,
        n_kv_head=heads,
        n_embd=width,
        window_pattern=window_pattern,
    )


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Parameters by kind, and arithmetic per token."""

    embeddings: int
    """Input and value embeddings: looked up, not multiplied."""
    matrices: int
    """Weights of the layers."""
    head: int
    scalars: int
    """Gates outside the layers and learned scalars."""
    flops_per_token: float
    """Forward and backward, at the full sequence length."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embeddings + self.matrices + self.head + self.scalars

    @property
    def scaling(self) -> int:
        """What nanochat's data-to-parameter ratio counts since January 2026: matrices and head."""
        return self.matrices + self.head


def model_size(config: GPTConfig) -> ModelSize:
    """Size of a model of that shape; nothing is allocated."""
    with torch.device("meta"):
        model = GPT(config)
    counts = {"embeddings": 0, "matrices": 0, "head": 0, "scalars": 0}
    for name, parameter in model.named_parameters():
        counts[parameter_kind(name)] += parameter.numel()
    full = config.sequence_len
    seen = sum(full if window is None else min(window, full) for window in config.windows)
    size = ModelSize(**counts, flops_per_token=0.0)
    return replace(size, flops_per_token=flops_per_token(size, config.n_embd, seen))


def flops_per_token(size: ModelSize, width: int, seen: float, rows: float = 1.0) -> float:
    """Arithmetic of a token, forward and backward, where a row sees `seen` keys, summed over the layers.

    `rows`: how many go through the layers for each token that is predicted; more than one where summaries do too.
    """
    return 6.0 * (size.matrices * rows + size.head) + 12.0 * width * seen * rows


def parameter_kind(name: str) -> str:
    """`embeddings`, `matrices`, `head` or `scalars`, for the name of a parameter of GPT."""
    if "wte" in name or name.startswith("value_embeds"):
        return "embeddings"
    if name.startswith("lm_head"):
        return "head"
    return "matrices" if name.startswith("transformer.h.") else "scalars"
