"""The recipe `tiny`: every part from scratch, one after another, on a CPU in minutes.

Vocabulary, then base and GistNet together, then addresses (they need only the vocabulary), then LensNet over all of
them frozen. What is reported at the end is measured on the held-out book with held-out names, on the weights as they
were saved.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacontext.config import dump_recipe
from megacontext.errors import ConfigError
from megacontext.evals.book import load_book
from megacontext.gistnet.address import AddressNetConfig
from megacontext.gistnet.gist import GistNetConfig
from megacontext.lensnet.lens import LensNetConfig
from megacontext.models.gpt import GPTConfig
from megacontext.models.positions import PositionPolicy
from megacontext.runtime.bundle import Bundle, BundleConfig
from megacontext.runtime.run import RunFolder, write_json
from megacontext.tokenizer import Tokenizer
from megacontext.train.address import AddressTrainConfig, train_address
from megacontext.train.base import BaseTrainConfig, train_base
from megacontext.train.contexts import ContextSampler, vocabulary_texts
from megacontext.train.held_out import held_out_metrics
from megacontext.train.lens import LensTrainConfig, train_lens


@dataclass(frozen=True, kw_only=True)
class TinyTrainConfig:
    """Shapes, data and schedules of all parts."""

    seed: int = 0
    block_size: int = 32
    positions: PositionPolicy = "context"
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
    vocabulary_sentences: int = 12_000
    """Facts and questions that the vocabulary sees beside the books."""
    model: GPTConfig = field(default_factory=GPTConfig)
    gistnet: GistNetConfig = field(default_factory=GistNetConfig)
    address: AddressNetConfig = field(default_factory=AddressNetConfig)
    lens: LensNetConfig = field(default_factory=LensNetConfig)
    base: BaseTrainConfig = field(default_factory=BaseTrainConfig)
    address_training: AddressTrainConfig = field(default_factory=AddressTrainConfig)
    lens_training: LensTrainConfig = field(default_factory=LensTrainConfig)

    def __post_init__(self) -> None:
        if self.held_out in self.books:
            raise ConfigError(
                f"the held-out book must not be trained on, {self.held_out!r} is in books; remove it there"
            )
        if not self.books:
            raise ConfigError("training needs at least one book; name it in books")


def train_tiny(config: TinyTrainConfig, out: Path, run: RunFolder) -> dict[str, Any]:
    """Train into the folder `out` and return the metrics, which also go into its metrics.json."""
    torch.manual_seed(config.seed)
    began = time.monotonic()
    texts = [load_book(name).text for name in config.books]
    rng = np.random.default_rng(config.seed)
    tokenizer = Tokenizer.train(
        vocabulary_texts(texts, rng, config.vocabulary_sentences), config.model.vocab_size
    )
    bundle = Bundle(
        BundleConfig(
            block_size=config.block_size,
            positions=config.positions,
            model=config.model,
            gistnet=config.gistnet,
            address=config.address,
            lens=config.lens,
        ),
        tokenizer,
    )
    contexts = ContextSampler(
        [tokenizer.encode(text) for text in texts], tokenizer, config.block_size, config.positions
    )
    train_base(bundle, contexts, config.base, seed=config.seed, telemetry=run.telemetry)
    train_address(bundle, contexts, config.address_training, seed=config.seed + 1, telemetry=run.telemetry)
    # LensNet learns on vectors as they will be stored, so the parts below it are rounded before it is trained.
    bundle.save(out)
    train_lens(bundle, contexts, config.lens_training, seed=config.seed + 2, telemetry=run.telemetry)
    bundle.save(out)
    seconds = time.monotonic() - began
    trained = Bundle.load(out)
    metrics = held_out_metrics(trained, load_book(config.held_out).text, seed=config.seed)
    metrics |= {
        "parameters": sum(weight.numel() for _, part in trained.parts() for weight in part.parameters()),
        "training_s": seconds,
        "seed": config.seed,
        "fingerprint": trained.fingerprint(),
    }
    write_json(out / "metrics.json", metrics)
    dump_recipe(config, out / "recipe.toml")
    run.note(model_fingerprint=metrics["fingerprint"])
    # The curve travels with the weights: reports of runs that use them show how they were made.
    run.telemetry.flush()
    shutil.copytree(run.path / "telemetry" / "train", out / "telemetry" / "train", dirs_exist_ok=True)
    return metrics
