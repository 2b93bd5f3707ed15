"""What a training of pooled gists takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megacontext.errors import ConfigError
from megacontext.gistnet.pooled import PooledCacheConfig
from megacontext.runtime.bases import Precision
from megacontext.runtime.gist_windows import WindowShape


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """The first stage: each layer's attention over gists is to give what it gives over the tokens."""

    steps: int = 60
    queries: int = 160
    """Places of a segment, drawn anew each step, whose attention is met."""
    lr: float = 1e-2
    final_share: float = 0.1
    """The rate falls to this share of `lr` in a straight line."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """The second stage: what the decoder says behind gists is to be what it says behind the tokens."""

    steps: int = 110
    windows: int = 4
    """Windows of a segment at a step."""
    distant_blocks: int = 12
    """Blocks of a window that are read as gists."""
    raw_tokens: int = 64
    """Tokens between them and what is scored."""
    scored_tokens: int = 128
    net_lr: float = 3e-3
    head_lr: float = 1e-2
    """Of biases, sharpness, shifts and scales."""
    warmup_steps: int = 10
    final_share: float = 0.05


@dataclass(frozen=True, kw_only=True)
class PooledTrainConfig:
    """A recipe of the trainer `pooled`."""

    trainer: Literal["pooled"] = "pooled"
    seed: int = 0
    base: str = "smollm2"
    """A frozen decoder: see `runtime.bases`."""
    device: str = "cpu"
    precision: Precision = "bfloat16"
    """Of the decoder; the gists' weights are float32."""
    sink: str = "<|endoftext|>"
    """The token before every segment and every reading."""
    documents: tuple[str, ...] = ("emma", "mansfield-park", "persuasion", "sense-and-sensibility")
    """What is trained on: see `corpus.documents`."""
    block_size: int = 32
    segment_blocks: int = 64
    """Blocks that are read together: what a block's keys and values are computed from."""
    constant: bool = False
    """A control: one trained prefix for all texts in the place of gists. It has no first stage."""
    pooled: PooledCacheConfig = field(default_factory=PooledCacheConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        stages = self.matching, self.distill
        if min(one.steps for one in stages) < 0 or not sum(one.steps for one in stages):
            raise ConfigError(
                "matching.steps and distill.steps must not be negative, nor both 0, got "
                f"{self.matching.steps} and {self.distill.steps}"
            )
        if self.constant and not self.distill.steps:
            raise ConfigError("a constant prefix is trained in the second stage alone; raise distill.steps")
        if min(self.matching.queries, self.distill.windows, self.distill.distant_blocks) < 1:
            raise ConfigError(
                "matching.queries, distill.windows and distill.distant_blocks must be at least 1"
            )
        if min(self.distill.raw_tokens, self.distill.scored_tokens) < 1 or self.block_size < 2:
            raise ConfigError(
                "distill.raw_tokens and scored_tokens must be at least 1 and block_size 2; raise the one that is not"
            )
        if self.shape.blocks > self.segment_blocks:
            raise ConfigError(
                f"a window takes {self.shape.blocks} blocks (gists, raw and scored tokens) and must fit a segment, got "
                f"segment_blocks = {self.segment_blocks}; raise it"
            )

    @property
    def shape(self) -> WindowShape:
        """Of the windows of the second stage."""
        distill = self.distill
        return WindowShape(
            block_size=self.block_size,
            distant_blocks=distill.distant_blocks,
            raw_tokens=distill.raw_tokens,
            scored_tokens=distill.scored_tokens,
        )
