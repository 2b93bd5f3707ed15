"""What a training of gist tokens takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megacontext.errors import ConfigError
from megacontext.focus.context import check_budget
from megacontext.lensnet.lens import LensNetConfig
from megacontext.models.gist_tokens import GistTokensConfig
from megacontext.runtime.bundle import BundleConfig
from megacontext.train.gist_tokens.contexts import FoldedContexts
from megacontext.train.lens import LensTrainConfig
from megacontext.train.optimisers import OptimiserConfig


@dataclass(frozen=True, kw_only=True)
class FoldedStage:
    """One step of the curriculum."""

    name: str
    steps: int
    batch: int
    contexts: FoldedContexts

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ConfigError(
                f"stage {self.name!r} needs steps and batch of at least 1, got {self.steps} and {self.batch}"
            )


@dataclass(frozen=True, kw_only=True)
class GistTokensTrainConfig:
    """A recipe of the trainer `gist-tokens`."""

    trainer: Literal["gist-tokens"] = "gist-tokens"
    seed: int = 0
    initial: str = "tiny"
    """The bundle whose base goes on learning, by name or path; its addresses stay as they are."""
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
    gist_tokens: GistTokensConfig = field(default_factory=GistTokensConfig)
    stages: tuple[FoldedStage, ...] = ()
    answer_weight: float = 2.0
    """Weight of the answers' loss beside the text's."""
    text_share: float = 0.25
    """Share of the text's places whose loss is computed."""
    embedding_share: float = 0.0
    """Share of the steps whose gists are GistNet's embeddings, so that the base reads both kinds."""
    lr: float = 2e-3
    """AdamW, for all weights: they are trained already."""
    warmup_steps: int = 20
    decay_share: float = 0.4
    """The last share of the steps, over which the rate falls linearly to zero."""
    lens: LensNetConfig = field(default_factory=LensNetConfig)
    lens_training: LensTrainConfig | None = field(default_factory=LensTrainConfig)
    """LensNet is trained anew, for it reads gists; None leaves it untrained."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")
        if not self.books or self.held_out in self.books:
            raise ConfigError(
                f"training needs books, and the held-out one, {self.held_out!r}, not among them; change books"
            )
        self.schedule()
        if not self.stages:
            raise ConfigError("training needs at least one stage; give stages")
        if not 0 < self.text_share <= 1 or not 0 <= self.embedding_share < 1 or self.answer_weight < 0:
            raise ConfigError(
                "text_share lies in (0, 1], embedding_share in [0, 1) and answer_weight is not negative, got "
                f"{self.text_share}, {self.embedding_share} and {self.answer_weight}"
            )

    def schedule(self) -> OptimiserConfig:
        """Rates over the steps. Raises ConfigError."""
        return OptimiserConfig(
            matrix_lr=self.lr,
            other_lr=self.lr,
            warmup_steps=self.warmup_steps,
            decay_share=self.decay_share,
        )

    def bundle(self, initial: BundleConfig) -> BundleConfig:
        """Shapes of the bundle that is made of an `initial` one. Raises BudgetError for LensNet's budget."""
        if self.lens_training is not None:
            check_budget(self.lens_training.budget, initial.block_size)
        return BundleConfig(
            block_size=initial.block_size,
            positions=initial.positions,
            gists="tokens",
            model=initial.model,
            gistnet=initial.gistnet,
            gist_tokens=self.gist_tokens,
            address=initial.address,
            lens=self.lens,
        )
