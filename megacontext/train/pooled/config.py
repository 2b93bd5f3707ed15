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
    fewest_parents: int | None = None
    """Each step draws how many, from this to `distant_parents`; None: always as many."""
    reach_segments: int = 1
    """Segments of a document that a window may reach over, each read by itself. Beyond one nobody has read all that the
    gists stand for, so what came is the teacher: cross-entropy of the scored tokens."""
    reach_tokens: int | None = None
    """How far before the raw tokens an entry may stand: what is farther is squeezed into it. None: as far as it is."""
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
        counts |= {"save_every": self.save_every, "distill.reach_segments": distill.reach_segments}
        given = {"segments": self.segments, "piece_blocks": self.piece_blocks}
        counts |= {name: 1 if count is None else count for name, count in given.items()}
        if small := [f"{name} = {count}" for name, count in counts.items() if count < 1]:
            raise ConfigError(f"{', '.join(counts)} must be at least 1, got {', '.join(small)}; raise it")
        if min(distill.raw_tokens, distill.scored_tokens) < 1 or self.block_size < 2:
            raise ConfigError(
                "distill.raw_tokens and scored_tokens must be at least 1 and block_size 2; raise the one that is not"
            )
        blocks, parents = distill.distant_blocks, distill.distant_parents
        if not 0 <= self.fewest_blocks <= blocks or not self.fewest_blocks + parents:
            raise ConfigError(
                "a window needs a gist: 0 <= distill.fewest_blocks <= distant_blocks and one of them or "
                f"distant_parents above 0, got {self.fewest_blocks}, {blocks} and {parents}"
            )
        if not min(1, parents) <= self.fewest_parents <= parents:
            raise ConfigError(
                "a window with nodes has one at least: 1 <= distill.fewest_parents <= distant_parents, got "
                f"{self.fewest_parents} and {parents}"
            )
        self._check_levels()
        self._check_reach()

    def _check_reach(self) -> None:
        distill, blocks = self.distill, self.shape.blocks
        room = distill.reach_segments * self.segment_blocks
        if blocks > room:
            raise ConfigError(
                f"a window takes {blocks} blocks (gists, raw and scored tokens) and must fit a segment, or "
                f"distill.reach_segments of them, got segment_blocks = {self.segment_blocks} and "
                f"{distill.reach_segments}; raise one of the two"
            )
        if distill.reach_segments > 1 and not all(
            self.places(self.shape_with(near, far))
            for near in range(self.fewest_blocks, distill.distant_blocks + 1)
            for far in range(self.fewest_parents, distill.distant_parents + 1)
        ):
            raise ConfigError(
                "windows of nodes begin where a tree has them, and of those that were asked for some would not end in "
                f"the last of {distill.reach_segments} segments; change distill.reach_segments or distant_parents"
            )
        near = distill.distant_blocks * self.block_size
        if distill.reach_tokens is not None and distill.reach_tokens <= near:
            raise ConfigError(
                f"distill.reach_tokens must be beyond the {near} tokens of the distant blocks, which stay where they "
                f"are, got {distill.reach_tokens}; raise it"
            )

    def _check_levels(self) -> None:
        levels, parents = self.pooled.levels, self.distill.distant_parents
        if levels > 2 or (levels == 2) != (parents > 0):
            raise ConfigError(
                "a second level is trained in windows that have it, and no third: pooled.levels = 2 goes with "
                f"distill.distant_parents >= 1, got {levels} and {parents}"
            )
        if self.distill.reach_segments > 1 and levels < 2:
            raise ConfigError(
                "windows over several segments are for a second level; leave distill.reach_segments at 1 or raise "
                "pooled.levels to 2"
            )
        if levels == 2 and (self.constant or not self.initial):
            raise ConfigError(
                "a second level is made of trained gists; name those in `initial`, and leave `constant` out"
            )
        if self.constant and self.initial:
            raise ConfigError("a constant prefix begins anew; leave `initial` out")

    @property
    def fewest_blocks(self) -> int:
        """Gists of blocks in a window, at least."""
        distill = self.distill
        return distill.distant_blocks if distill.fewest_blocks is None else distill.fewest_blocks

    @property
    def fewest_parents(self) -> int:
        """Gists of gists in a window, at least."""
        distill = self.distill
        return distill.distant_parents if distill.fewest_parents is None else distill.fewest_parents

    @property
    def shape(self) -> WindowShape:
        """Of the largest windows of the second stage."""
        return self.shape_with(self.distill.distant_blocks, self.distill.distant_parents)

    def places(self, shape: WindowShape) -> range:
        """Blocks that windows of such a shape may begin at, in a segment or in those that they reach over."""
        if self.distill.reach_segments > 1:
            return shape.begins(self.distill.reach_segments, self.segment_blocks)
        return range(self.segment_blocks - shape.blocks + 1)

    def shape_with(self, distant_blocks: int, distant_parents: int) -> WindowShape:
        """Of windows with that many gists of blocks, and of gists."""
        distill = self.distill
        return WindowShape(
            block_size=self.block_size,
            distant_blocks=distant_blocks,
            distant_parents=distant_parents,
            reach_tokens=distill.reach_tokens,
            raw_tokens=distill.raw_tokens,
            scored_tokens=distill.scored_tokens,
        )
