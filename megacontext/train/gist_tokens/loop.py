"""Continued pretraining of a bundle's base with gist tokens, then LensNet on the trees that it makes.

The bundle is saved after each stage, so what was reached is kept whatever comes after it. Figures at the end are of the
held-out book, on the weights as they were saved.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacontext.config import dump_recipe
from megacontext.corpus.book import load_book
from megacontext.errors import ConfigError
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.run import RunFolder, write_json
from megacontext.telemetry import Telemetry
from megacontext.train.contexts import ContextSampler
from megacontext.train.gist_tokens.config import GistTokensTrainConfig
from megacontext.train.gist_tokens.contexts import FoldedSampler
from megacontext.train.gist_tokens.objective import folded_loss
from megacontext.train.held_out import held_out_metrics
from megacontext.train.lens import train_lens
from megacontext.train.optimisers import Group, Optimisers


@dataclass(frozen=True)
class GistTokensData:
    """What a training reads, loaded and checked before anything is written."""

    bundle: Bundle
    """With gist tokens: those of the initial bundle, or new ones."""
    books: list[np.ndarray]
    held_out: str


def load_gist_tokens_data(config: GistTokensTrainConfig) -> GistTokensData:
    """Raises CheckpointError for the initial bundle, ConfigError for a book that is missing or too short."""
    initial = Bundle.load(model_folder(config.initial))
    encode, size = initial.tokenizer.encode, initial.config.block_size
    texts = {name: load_book(name).text for name in (*config.books, config.held_out)}
    books = [encode(texts[name]) for name in config.books]
    wanted = max(stage.contexts.stretch_tokens(size) for stage in config.stages)
    for name, ids in zip(config.books, books, strict=True):
        if len(ids) < wanted:
            raise ConfigError(
                f"a book for this recipe must have at least {wanted:,} tokens, {name} has {len(ids):,}; give a longer "
                "one or ask for fewer blocks"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        bundle = Bundle(config.bundle(initial.config), initial.tokenizer)
    parts = dict(initial.parts())
    for name, part in bundle.parts():
        if name in parts and name != "lens":
            part.load_state_dict(parts[name].state_dict())
    return GistTokensData(bundle, books, texts[config.held_out])


def train_gist_tokens(
    config: GistTokensTrainConfig, data: GistTokensData, out: Path, run: RunFolder
) -> dict[str, Any]:
    """Train into the folder `out`; return what its metrics.json holds."""
    began, bundle = time.monotonic(), data.bundle
    contexts = ContextSampler(data.books, bundle.tokenizer, bundle.config.block_size, bundle.config.positions)
    seen = train_base_with_gist_tokens(bundle, contexts, config, out, run.telemetry)
    if config.lens_training is not None:
        train_lens(bundle, contexts, config.lens_training, seed=config.seed + 1, telemetry=run.telemetry)
    bundle.save(out)
    seconds = time.monotonic() - began
    trained = Bundle.load(out)
    metrics = held_out_metrics(trained, data.held_out, seed=config.seed) | {
        "tokens_read": seen,
        "training_s": seconds,
        "seed": config.seed,
        "fingerprint": trained.fingerprint(),
    }
    write_json(out / "metrics.json", metrics)
    dump_recipe(config, out / "recipe.toml")
    run.note(model_fingerprint=metrics["fingerprint"])
    return metrics


def train_base_with_gist_tokens(
    bundle: Bundle,
    contexts: ContextSampler,
    config: GistTokensTrainConfig,
    out: Path | None,
    telemetry: Telemetry,
) -> int:
    """Run the stages over base, gist tokens and, where it has a share, GistNet; returns how many tokens were read.

    Same seed, same machine, same weights.
    """
    rng, chance = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    sampler = FoldedSampler(contexts, bundle.config.gist_tokens.left_tokens)
    assert bundle.gist_tokens is not None
    trained = [bundle.base, bundle.gist_tokens] + ([bundle.gistnet] if config.embedding_share else [])
    weights = [weight for part in trained for weight in part.parameters()]
    optimisers = Optimisers([Group(parameters=weights, lr=config.lr, betas=(0.9, 0.95))])
    schedule = config.schedule()
    total = sum(stage.steps for stage in config.stages)
    done = seen = 0
    began = time.monotonic()
    with Progress("base with gist tokens", total) as progress:
        for stage in config.stages:
            for _ in range(stage.steps):
                batch = sampler.batch(rng, stage.batch, stage.contexts)
                told = folded_loss(
                    bundle,
                    batch,
                    text_share=config.text_share,
                    answer_weight=config.answer_weight,
                    embedding=bool(rng.random() < config.embedding_share),
                    chance=chance,
                )
                told["loss"].backward()
                factor = schedule.factor(done, total)
                optimisers.step(factor)
                seen += batch.tokens_read
                done += 1
                if done % 10 and done < total:
                    progress.advance()
                    continue
                figures = {name: value.item() for name, value in told.items()}
                seconds = time.monotonic() - began
                telemetry.emit(
                    "train",
                    stage=stage.name,
                    step=done,
                    wall_s=seconds,
                    tokens_seen=seen,
                    loss_nats=figures["loss"],
                    lm_loss_nats=figures["text"],
                    answer_loss_nats=figures.get("answer"),
                    answer_accuracy=figures.get("accuracy"),
                    learning_rate=factor * config.lr,
                    tokens_per_s=seen / seconds,
                )
                right = f" · answers {figures['accuracy']:.0%}" if "accuracy" in figures else ""
                progress.advance(f"{stage.name} · text {figures['text']:.2f}{right}")
            if out is not None:
                bundle.save(out)
    return seen
