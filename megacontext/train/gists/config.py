"""What a training of embedding gists takes: which bundle it goes on from, on which text, in which stages."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from megacontext.errors import ConfigError
from megacontext.gistnet.gist import GistNetConfig
from megacontext.runtime.embedding_windows import EmbeddingWindow
from megacontext.runtime.planted_windows import PlantedConfig
from megacontext.train.gist_losses import MARGIN


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each loss counts in a stage: see `train.gist_losses`; 0 leaves it out."""

    plain: float = 0.0
    """Next-token loss over whole windows as tokens: keeps the base, where it is trained, a reader of plain text."""
    horizon: float = 0.0
    teacher: float = 0.0
    reconstruction: float = 0.0
    separation: float = 0.0
    next_gist: float = 0.0
    pooling: float = 0.0

    def __post_init__(self) -> None:
        if min(self.named().values()) < 0 or not any(self.named().values()):
            raise ConfigError(
                f"weights of losses must not be negative, nor all 0, got {self.named()}; change them"
            )

    def named(self) -> dict[str, float]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def reads_gists(self) -> bool:
        """Whether anything but plain text is read."""
        return any(value for name, value in self.named().items() if name != "plain")


@dataclass(frozen=True, kw_only=True)
class GistStage:
    """One step of the curriculum."""

    name: str
    steps: int
    batch: int
    weights: LossWeights
    base: Literal["frozen", "lora", "trained"] = "frozen"
    gistnet: Literal["frozen", "trained"] = "trained"
    min_blocks: int = 12
    max_blocks: int = 12
    """Distant blocks of a window: the most grows from the fewest to this over the first half of the stage."""
    max_coarse: int = 0
    """LOD2 spans before them at most; their number is drawn anew each step."""
    raw_tokens: int = 64
    scored_tokens: int = 128
    planted_share: float = 0.0
    """Share of the windows that ask for facts planted in their distant part; of these only answers are scored."""
    lr: float = 3e-3
    """AdamW, of GistNet and of what only training needs.

    Muon's iterations would cost a small step more than the step.
    """
    base_lr: float = 1e-3
    """The same, of the base or of its low-rank changes."""
    warmup_steps: int = 10
    decay_share: float = 0.5
    """The last share of the steps, over which the rates fall linearly to zero."""

    def __post_init__(self) -> None:
        if (
            min(self.steps, self.batch) < 1
            or not 0 <= self.min_blocks <= self.max_blocks
            or self.max_coarse < 0
        ):
            raise ConfigError(
                f"stage {self.name!r} needs steps and batch of at least 1, 0 <= min_blocks <= max_blocks and "
                f"max_coarse of "
                f"at least 0, got {self.steps}, {self.batch}, {self.min_blocks}, {self.max_blocks} and "
                f"{self.max_coarse}"
            )
        if min(self.lr, self.base_lr) <= 0 or self.warmup_steps < 0 or not 0 <= self.decay_share <= 1:
            raise ConfigError(
                f"stage {self.name!r} needs positive rates, warmup_steps of at least 0 and decay_share in [0, 1], got "
                f"{self.lr}, {self.base_lr}, {self.warmup_steps} and {self.decay_share}; change what does not fit"
            )
        if not 0 <= self.planted_share <= 1:
            raise ConfigError(
                f"stage {self.name!r}: planted_share must lie in [0, 1], got {self.planted_share}"
            )
        if self.base == "frozen" and self.gistnet == "frozen":
            raise ConfigError(
                f"stage {self.name!r} must train something, base and gistnet are frozen; train one"
            )
        if self.base == "frozen" and not self.weights.reads_gists:
            raise ConfigError(
                f"stage {self.name!r} reads plain text only and must train the base; set base to trained"
            )

    def factor(self, step: int) -> float:
        """Share of the full rates at `step`: up, level, down."""
        up = (step + 1) / max(1, self.warmup_steps)
        down = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return min(1.0, up, down)

    def window(self, block_size: int, blocks: int, coarse: int) -> EmbeddingWindow:
        """Of one step. Raises ConfigError for sizes that no window has."""
        return EmbeddingWindow(
            block_size=block_size,
            blocks=blocks,
            coarse=coarse,
            raw_tokens=self.raw_tokens,
            scored_tokens=self.scored_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class GistTrainConfig:
    """A recipe of the trainer `gists`."""

    trainer: Literal["gists"] = "gists"
    seed: int = 0
    initial: str = "tiny"
    """The bundle that it goes on from: a folder in data/, or the path of one."""
    gistnet: GistNetConfig | None = None
    """A new GistNet of this kind; none goes on with the bundle's own."""
    documents: tuple[str, ...] = ("emma", "mansfield-park", "persuasion", "sense-and-sensibility")
    """Prose: see `corpus.documents`."""
    code: tuple[str, ...] = ("stdlib",)
    code_share: float = 0.5
    """Share of the windows that are cut from code; within a kind, documents are drawn by length."""
    planted: PlantedConfig = field(default_factory=PlantedConfig)
    """Of the windows that ask; their text is the prose, their names are never those of an evaluation."""
    margin: float = MARGIN
    lora_rank: int = 8
    """Of the stages whose base is trained by low-rank changes; these are merged into its weights at their end."""
    stages: tuple[GistStage, ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")
        if not self.stages:
            raise ConfigError("training needs at least one stage; add one to the recipe")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ConfigError(f"stages must have names of their own, got {', '.join(names)}; rename one")
        lacking = (self.code_share > 0 and not self.code) or (self.code_share < 1 and not self.documents)
        if not 0 <= self.code_share <= 1 or lacking:
            raise ConfigError(
                f"code_share must lie in [0, 1] and have documents of the kinds that it asks for, got "
                f"{self.code_share} with "
                f"{len(self.documents)} of prose and {len(self.code)} of code; change one"
            )
        if not self.documents and any(stage.planted_share for stage in self.stages):
            raise ConfigError(
                "facts are planted in prose, documents names none; name a book or plant nothing"
            )
        if self.lora_rank < 1 or not 0 < self.margin <= 2:
            raise ConfigError(
                f"lora_rank must be at least 1 and margin in (0, 2], got {self.lora_rank} and {self.margin}; "
                f"change them"
            )
        slots = 1 if self.gistnet is None else self.gistnet.slots
        if slots > 1 and any(stage.weights.next_gist for stage in self.stages):
            raise ConfigError(
                f"next_gist foretells gists of one vector, gistnet.slots is {slots}; weigh it with 0"
            )
