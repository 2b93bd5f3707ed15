"""The recipes `tiny` and `tiny-tasks`: every part of a small model, one after another, on a CPU.

Vocabulary, then base and GistNet together, then addresses (they need only the vocabulary), then LensNet over all of
them frozen. A recipe may go on from a trained bundle instead, with its vocabulary and weights, and train some parts
alone: each part has its own seed, so what does not depend on one another comes out the same in one run or in several.
What is reported at the end is measured on the held-out book with held-out names, on the weights as they were saved.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from megacontext.config import dump_recipe
from megacontext.corpus.book import load_book
from megacontext.errors import ConfigError
from megacontext.focus.context import check_budget
from megacontext.gistnet.address import AddressNetConfig
from megacontext.gistnet.gist import GistNetConfig
from megacontext.lensnet.lens import LensNetConfig
from megacontext.models.gpt import GPTConfig
from megacontext.models.positions import PositionPolicy
from megacontext.runtime.bundle import Bundle, BundleConfig, model_folder
from megacontext.runtime.run import RunFolder, write_json
from megacontext.tasks.facts import has_sentence_end
from megacontext.tokenizer import Tokenizer, check_vocab_size
from megacontext.train.address import AddressTrainConfig, train_address
from megacontext.train.base import BaseTrainConfig, train_base
from megacontext.train.contexts import ContextSampler, vocabulary_texts
from megacontext.train.curves import ship_curve
from megacontext.train.held_out import WINDOW_TOKENS, held_out_metrics
from megacontext.train.lens import LensTrainConfig, train_lens


@dataclass(frozen=True, kw_only=True)
class TinyTrainConfig:
    """Shapes, data and schedules of all parts."""

    trainer: Literal["parts"] = "parts"
    seed: int = 0
    start_from: str = ""
    """A folder in data/, or the path of a folder, with a trained bundle to go on from; empty = from scratch."""
    train: tuple[Literal["base", "address", "lens"], ...] = ("base", "address", "lens")
    """What is trained; base includes GistNet. From scratch it must be all."""
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
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")
        if self.held_out in self.books:
            raise ConfigError(
                f"the held-out book must not be trained on, {self.held_out!r} is in books; remove it there"
            )
        if not self.books:
            raise ConfigError("training needs at least one book; name it in books")
        if not self.train or (not self.start_from and len(set(self.train)) < 3):
            raise ConfigError(
                f"training from scratch needs all of base, address and lens, got {list(self.train)}; name a bundle in "
                "start_from to train some parts alone"
            )
        check_vocab_size(self.model.vocab_size)
        check_budget(self.lens_training.budget, self.block_size)
        self.parts()

    def parts(self) -> BundleConfig:
        """Shapes of the parts that are trained. Raises ConfigError where they do not fit together."""
        return BundleConfig(
            block_size=self.block_size,
            positions=self.positions,
            model=self.model,
            gistnet=self.gistnet,
            address=self.address,
            lens=self.lens,
        )

    def stretch_tokens(self) -> int:
        """Tokens of the longest stretch that training cuts out of a book."""
        contexts = [stage.contexts.stretch_tokens(self.block_size) for stage in self.base.stages]
        return max([*contexts, self.address_training.blocks * self.block_size])


@dataclass(frozen=True)
class TrainingTexts:
    """What is trained on, and what is measured on."""

    books: list[str]
    held_out: str


def load_texts(config: TinyTrainConfig) -> TrainingTexts:
    """Read all books, and look at the bundle to go on from, so that nothing is found wanting when training has begun.

    Raises ConfigError for a book that is missing, no text, too short, or without sentences, and for a bundle of other
    shapes, CheckpointError for one that is not there. Lengths are counted in words, because there is no vocabulary yet:
    a text has at least as many tokens.
    """
    if config.start_from:
        _going_on(config)
    wanted = dict.fromkeys(config.books, config.stretch_tokens()) | {config.held_out: WINDOW_TOKENS}
    texts = {}
    for name, words in wanted.items():
        texts[name] = load_book(name).text
        found = len(texts[name].split())
        if found < words:
            raise ConfigError(
                f"a book for this recipe must have at least {words:,} words, {name} has {found:,}; give a longer one "
                "or ask for fewer blocks"
            )
        if not has_sentence_end(texts[name]):
            raise ConfigError(
                f"a book must have sentences to put facts between, {name} has none; give one in prose"
            )
    return TrainingTexts([texts[name] for name in config.books], texts[config.held_out])


def train_tiny(config: TinyTrainConfig, texts: TrainingTexts, out: Path, run: RunFolder) -> dict[str, Any]:
    """Train on `texts` (of `load_texts`) into the folder `out`; return the metrics that its metrics.json holds."""
    torch.manual_seed(config.seed)
    began = time.monotonic()
    bundle = _begun(config, texts)
    tokenizer = bundle.tokenizer
    contexts = ContextSampler(
        [tokenizer.encode(text) for text in texts.books], tokenizer, config.block_size, config.positions
    )
    told = run.telemetry
    if "base" in config.train:
        train_base(
            bundle,
            contexts,
            config.base,
            seed=config.seed,
            telemetry=told,
            scratch=not config.start_from,
            # Saving rounds, and training goes on from what is not rounded: so a copy. A stopped run leaves the last.
            after_stage=lambda: copy.deepcopy(bundle).save(out),
        )
    if "address" in config.train:
        train_address(bundle, contexts, config.address_training, seed=config.seed + 1, telemetry=told)
    # LensNet learns on vectors as they will be stored, so the parts below it are rounded before it is trained.
    bundle.save(out)
    if "lens" in config.train:
        train_lens(bundle, contexts, config.lens_training, seed=config.seed + 2, telemetry=told)
        bundle.save(out)
    seconds = time.monotonic() - began
    trained = Bundle.load(out)
    metrics = held_out_metrics(trained, texts.held_out, seed=config.seed)
    metrics |= {
        "parameters": sum(weight.numel() for _, part in trained.parts() for weight in part.parameters()),
        "training_s": seconds,
        "seed": config.seed,
        "fingerprint": trained.fingerprint(),
    }
    write_json(out / "metrics.json", metrics)
    dump_recipe(config, out / "recipe.toml")
    run.note(model_fingerprint=metrics["fingerprint"])
    ship_curve(run, out)
    return metrics


def _begun(config: TinyTrainConfig, texts: TrainingTexts) -> Bundle:
    """The bundle as training finds it."""
    if config.start_from:
        return _going_on(config)
    rng = np.random.default_rng(config.seed)
    sentences = vocabulary_texts(texts.books, rng, config.vocabulary_sentences)
    return Bundle(config.parts(), Tokenizer.train(sentences, config.model.vocab_size))


def _going_on(config: TinyTrainConfig) -> Bundle:
    """The bundle to go on from. Raises CheckpointError, or ConfigError for one of other shapes.

    Only whether a LensNet that is trained sees words may differ from that bundle: the rest of it goes on as it was.
    """
    begun, wanted = Bundle.load(model_folder(config.start_from)), config.parts()
    if begun.config == wanted:
        return begun
    seen = replace(wanted.lens, words=begun.config.lens.words)
    if begun.config != replace(wanted, lens=seen) or "lens" not in config.train:
        raise ConfigError(
            f"a recipe that goes on from a bundle must ask for its shapes, {config.start_from!r} has other ones; copy "
            "model, gistnet, address and lens from its recipe.toml (lens.words may differ where lens is trained)"
        )
    bundle = Bundle(wanted, begun.tokenizer)
    for (_, part), (_, old) in zip(bundle.parts(), begun.parts(), strict=True):
        own = part.state_dict()
        part.load_state_dict(own | {name: kept for name, kept in old.state_dict().items() if name in own})
        part.eval()
    return bundle
