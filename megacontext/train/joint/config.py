"""What an end-to-end training is made of: a model to go on from, and stages, each of one kind.

Stages of one kind that follow each other are a phase: one optimisation with one schedule of rates, whose length and
horizon grow from stage to stage. A phase ends with the running averages of its weights in their place, and the
next one begins from those with optimisers of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megacontext.errors import ConfigError
from megacontext.focus.allocator import AllocatorConfig
from megacontext.train.joint.counterfactual import CounterfactualConfig
from megacontext.train.joint.passages import PassageSpec
from megacontext.train.optimisers import OptimiserConfig

Kind = Literal["cloze", "joint", "counterfactual"]
PARTS = ("base", "gistnet", "address", "lens")


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """At what share of the full rates each part learns in a stage; 0 freezes it."""

    base: float = 0.0
    gistnet: float = 0.0
    address: float = 0.0
    lens: float = 1.0

    def __post_init__(self) -> None:
        if min(self.share(part) for part in PARTS) < 0:
            raise ConfigError("a part's share of the rates must not be negative; 0 freezes it")

    def share(self, part: str) -> float:
        """The share of the part of that name."""
        return float(getattr(self, part))

    def learning(self) -> tuple[str, ...]:
        """Names of the parts that learn."""
        return tuple(part for part in PARTS if self.share(part) > 0)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Some steps of one kind over passages of one shape."""

    name: str
    kind: Kind
    steps: int
    passages: int = 4
    """Passages read at once."""
    micro_steps: int = 1
    """Times that so many are read before the weights move: gradients accumulate."""
    budget: int = 240
    """Positions of a context and the prompt behind it."""
    shape: PassageSpec = field(default_factory=PassageSpec)
    learn: LearnConfig = field(default_factory=LearnConfig)
    contexts: int = 3
    """N1, of "joint": contexts sampled for each passage, the recency one among them."""
    siblings: int = 2
    """N2, of "joint": siblings of each."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.passages, self.micro_steps, self.contexts)
        if min(counts) < 1 or self.siblings < 0:
            raise ConfigError(
                f"stage {self.name!r} needs steps, passages, micro_steps and contexts of at least 1 and siblings of at "
                f"least 0, got {', '.join(map(str, counts))} and {self.siblings}"
            )
        learning = self.learn.learning()
        if not learning:
            raise ConfigError(f"stage {self.name!r} freezes every part; give one a share in its learn table")
        if self.kind != "joint" and learning != ("lens",):
            raise ConfigError(
                f"a {self.kind} stage trains LensNet alone, {self.name!r} names {', '.join(learning)}; leave learn out"
            )


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is measured on the held-out book, before and after."""

    windows: int = 96
    distant_blocks: int = 24
    """Blocks that are shown as gists, or left out."""
    recent_blocks: int = 2
    """Blocks of tokens between them and the horizon."""
    horizon: int = 32
    save_every: int = 50
    """Steps from one saved state to the next; a phase's end and an interrupt save one too."""

    def __post_init__(self) -> None:
        if min(self.windows, self.distant_blocks, self.recent_blocks, self.horizon, self.save_every) < 1:
            raise ConfigError("every number of measure must be at least 1; raise the one that is not")


@dataclass(frozen=True, kw_only=True)
class JointTrainConfig:
    """A whole run."""

    trainer: Literal["joint"] = "joint"
    seed: int = 0
    model: str = "tiny"
    """What is gone on from: a folder in data/, or the path of a folder, with trained parts."""
    books: tuple[str, ...] = (
        "emma",
        "mansfield-park",
        "northanger-abbey",
        "persuasion",
        "sense-and-sensibility",
    )
    """What is trained on: shipped books, or paths of text files."""
    held_out: str = "pride-and-prejudice"
    """What is measured on; never trained on."""
    stages: tuple[StageConfig, ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the networks' arithmetic; weights stay fp32."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    muon_parts: tuple[str, ...] = ("lens",)
    """Parts whose matrices Muon moves, at matrix_lr; all else is AdamW's, at other_lr. Muon's orthogonalisation of the
    tiny base's matrices takes a second a step on one CPU core, as long as two passages."""
    grad_clip: float = 1.0
    """Longest gradient of each part; 0 = any."""
    average: float = 0.97
    """Decay of the running averages of the weights, a step; 0 = none."""
    answer_weight: float = 1.0
    """Weight of the answers' loss beside the text's."""
    address_weight: float = 0.1
    address_temperature: float = 0.05
    preference_weight: float = 0.1
    """Weight of LensNet's loss for the better neighbours."""
    preference_price: float = 0.2
    """Nats a token that a neighbour which replaces every position has to save: see `preference`."""
    noise: float = 0.3
    """Of the scores that lead to the siblings other than the deployed one."""
    miss_weight: float = 8.0
    """How many needless expansions a missed one is worth, in the cloze task: see `train.lens`."""
    max_steps: int = 8
    """Steps of a refocus."""
    counterfactual: CounterfactualConfig = field(default_factory=CounterfactualConfig)
    allocator: AllocatorConfig = field(default_factory=AllocatorConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)

    def __post_init__(self) -> None:
        if self.seed < 0 or self.max_steps < 1:
            raise ConfigError(
                f"seed must not be negative and max_steps at least 1, got {self.seed} and {self.max_steps}"
            )
        if not self.stages:
            raise ConfigError(
                "an end-to-end training needs stages, got none; see data/recipes/tiny-joint.toml"
            )
        if not self.books or self.held_out in self.books:
            raise ConfigError(
                f"training needs books, and the held-out book must not be one of them, got {self.held_out!r} beside "
                f"{', '.join(self.books) or 'none'}"
            )
        if unknown := set(self.muon_parts) - set(PARTS):
            raise ConfigError(f"muon_parts names parts, {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
        if not 0 <= self.average < 1 or self.grad_clip < 0:
            raise ConfigError(
                f"average must lie in [0, 1) and grad_clip not be negative, got {self.average} and {self.grad_clip}"
            )
        weights = (
            self.answer_weight,
            self.address_weight,
            self.preference_weight,
            self.preference_price,
            self.noise,
        )
        if min(weights) < 0 or self.miss_weight <= 0 or self.address_temperature <= 0:
            raise ConfigError(
                "weights, prices and noise must not be negative, miss_weight and address_temperature positive, got "
                f"{weights}, {self.miss_weight} and {self.address_temperature}"
            )

        for stage in self.stages:
            self._check_signals(stage)

    def _check_signals(self, stage: StageConfig) -> None:
        """Raises ConfigError where a part would learn from nothing."""
        if stage.kind != "joint":
            return
        learn = stage.learn
        if learn.address and not (self.address_weight and stage.shape.facts_share):
            raise ConfigError(
                f"addresses learn from facts, stage {stage.name!r} has facts_share {stage.shape.facts_share} at an "
                f"address_weight of {self.address_weight}; raise both or set learn.address to 0"
            )
        if learn.lens and not (self.preference_weight and stage.siblings):
            raise ConfigError(
                f"LensNet learns from siblings, stage {stage.name!r} makes {stage.siblings} at a preference_weight of "
                f"{self.preference_weight}; raise both or set learn.lens to 0"
            )

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)
