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
    fewest_blocks: int | None = None
    """Each step draws how many, from this to `distant_blocks`; None: always as many."""
    distant_parents: int = 0
    """Nodes of `block_size` blocks, before them, that are read as gists of gists."""
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
    precision: Precision | None = None
    """Of the decoder, None: what the device is quick in. The gists' weights are float32."""
    sink: str = "<|endoftext|>"
    """The token before every segment and every reading."""
    documents: tuple[str, ...] = ("emma", "mansfield-park", "persuasion", "sense-and-sensibility")
    """What is trained on: see `corpus.documents`."""
    block_size: int = 32
    segment_blocks: int = 64
    """Blocks that are read together: what a block's keys and values are computed from."""
    piece_blocks: int | None = None
    """Less than that for the gists: a segment's pieces of so many blocks are read apart. None: the whole segment."""
    segments: int | None = None
    """How many of the segments are trained on, drawn by the seed, and gone round; None: all that there are."""
    initial: str = ""
    """Trained gists to go on from: a folder in data/, or the path of one. Of `pooled.levels` levels the last is trained
    and those below it stay as they are there, so a level above the first needs some."""
    save_every: int = 10
    """Steps between states that an interrupted training goes on from."""
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
        distill = self.distill
        counts = {"matching.queries": self.matching.queries, "distill.windows": distill.windows}
        counts |= {"save_every": self.save_every}
        given = {"segments": self.segments, "piece_blocks": self.piece_blocks}
        counts |= {name: 1 if count is None else count for name, count in given.items()}
        if small := [f"{name} = {count}" for name, count in counts.items() if count < 1]:
            raise ConfigError(f"{', '.join(counts)} must be at least 1, got {', '.join(small)}; raise it")
        if min(distill.raw_tokens, distill.scored_tokens) < 1 or self.block_size < 2:
            raise ConfigError(
                "distill.raw_tokens and scored_tokens must be at least 1 and block_size 2; raise the one that is not"
            )
        fewest = distill.distant_blocks if distill.fewest_blocks is None else distill.fewest_blocks
        if not 0 <= fewest <= distill.distant_blocks or not fewest + distill.distant_parents:
            raise ConfigError(
                "a window needs a gist: 0 <= distill.fewest_blocks <= distant_blocks and one of them or "
                f"distant_parents above 0, got {fewest}, {distill.distant_blocks} and {distill.distant_parents}"
            )
        self._check_levels()
        if self.shape.blocks > self.segment_blocks:
            raise ConfigError(
                f"a window takes {self.shape.blocks} blocks (gists, raw and scored tokens) and must fit a segment, got "
                f"segment_blocks = {self.segment_blocks}; raise it"
            )

    def _check_levels(self) -> None:
        levels, parents = self.pooled.levels, self.distill.distant_parents
        if levels > 2 or (levels == 2) != (parents > 0):
            raise ConfigError(
                "a second level is trained in windows that have it, and no third: pooled.levels = 2 goes with "
                f"distill.distant_parents >= 1, got {levels} and {parents}"
            )
        if levels == 2 and (self.constant or not self.initial):
            raise ConfigError(
                "a second level is made of trained gists; name those in `initial`, and leave `constant` out"
            )
        if self.constant and self.initial:
            raise ConfigError("a constant prefix begins anew; leave `initial` out")

    @property
    def shape(self) -> WindowShape:
        """Of the largest windows of the second stage."""
        return self.shape_with(self.distill.distant_blocks)

    def shape_with(self, distant_blocks: int) -> WindowShape:
        """Of windows with that many gists of blocks."""
        distill = self.distill
        return WindowShape(
            block_size=self.block_size,
            distant_blocks=distant_blocks,
            distant_parents=distill.distant_parents,
            raw_tokens=distill.raw_tokens,
            scored_tokens=distill.scored_tokens,
        )
