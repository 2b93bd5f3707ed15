"""The trainer of embedding gists: stage by stage over windows of plain text, GistNet first, then the base with it.

The order is REFRAG's (2509.01092): the base learns nothing until gists say what their blocks were (reconstruction, from
one block to many), then what follows them, and then the base is trained on with them, whole or by low-rank changes. A
stage of plain text alone may stand before: gists can be worth no more than what the base makes of the tokens
themselves.

LensNet and addresses stay as they are. Addresses are of token ids and remain right; LensNet was trained on other gists
and should be trained anew before a bundle is asked questions.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megacontext.errors import ConfigError
from megacontext.gistnet.gist import GistNet
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.embedding_windows import (
    EmbeddingWindow,
    hidden_behind,
    hidden_plain,
    make_gists,
    predicting,
    scored,
)
from megacontext.telemetry import Telemetry
from megacontext.train.gist_losses import (
    Decoding,
    GistPrediction,
    horizon_loss,
    pooling_loss,
    separation_loss,
    teacher_divergence,
)
from megacontext.train.gists.config import GistStage, GistTrainConfig, LossWeights
from megacontext.train.gists.lora import low_rank
from megacontext.train.gists.windows import WindowSampler, load_sampler
from megacontext.train.optimisers import Group, Optimisers

_LOG_EVERY = 10
_TOLD = 20
"""Steps whose mean is a stage's first or last figure."""
_COLUMNS = {
    "plain": "lm_loss_nats",
    "horizon": "horizon_loss_nats",
    "teacher": "teacher_divergence_nats",
    "reconstruction": "reconstruction_loss_nats",
    "next_gist": "next_gist_error",
    "next_gist_lod1": "next_gist_lod1_error",
    "next_gist_lod2": "next_gist_lod2_error",
    "pooling": "pooling_error",
}
"""Of telemetry."""
_PLAIN_SHARE = 0.5
"""Share of the tokens of plain windows whose loss is computed: the head is the costliest part of a small model."""


@dataclass(frozen=True)
class GistData:
    """What a training reads, loaded and checked before anything is written."""

    bundle: Bundle
    sampler: WindowSampler


def load_gist_data(config: GistTrainConfig) -> GistData:
    """The bundle, with a new GistNet if the recipe has one, and the documents. Raises what opening either raises."""
    bundle = Bundle.load(model_folder(config.initial))
    if config.gistnet is not None:
        bundle = with_gistnet(bundle, config)
    size = bundle.config.block_size
    windows = [stage.window(size, stage.max_blocks, stage.max_coarse) for stage in config.stages]
    for stage in config.stages:
        stage.window(size, stage.min_blocks, 0 if stage.min_blocks else stage.max_coarse)
    if bundle.config.gistnet.slots > 1 and any(stage.weights.next_gist for stage in config.stages):
        raise ConfigError(
            f"next_gist foretells gists of one vector, those of {config.initial} have {bundle.config.gistnet.slots}; "
            "weigh it with 0"
        )
    sampler = load_sampler(config, bundle.tokenizer)
    sampler.check(max(window.tokens for window in windows))
    return GistData(bundle, sampler)


def with_gistnet(bundle: Bundle, config: GistTrainConfig) -> Bundle:
    """The same parts around a GistNet of the recipe's kind that has learnt nothing."""
    assert config.gistnet is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        made = Bundle(replace(bundle.config, gistnet=config.gistnet), bundle.tokenizer)
    for (name, part), (_, before) in zip(made.parts(), bundle.parts(), strict=True):
        if name != "gistnet":
            part.load_state_dict(before.state_dict())
        part.eval()
    return made


class GistObjective(nn.Module):
    """The losses of one step; base, GistNet and what only training needs receive their gradient."""

    def __init__(self, bundle: Bundle, margin: float):
        super().__init__()
        width = bundle.base.width
        self._bundle = [bundle]  # not a part of this module: its networks have optimisers of their own
        self.margin = margin
        self.decoding, self.prediction = Decoding(width), GistPrediction(width)

    def needed(self, weights: LossWeights) -> list[nn.Module]:
        """The own parts that a stage trains."""
        return [
            part
            for part, weight in (
                (self.decoding, weights.reconstruction),
                (self.prediction, weights.next_gist),
            )
            if weight
        ]

    def forward(
        self,
        window: EmbeddingWindow,
        weights: LossWeights,
        ids: Tensor,
        counted: Tensor,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Each weighed loss by its name, in its own unit, over windows `ids` (B, tokens), and what it is the mean of.

        `counted` bool (B, scored): the scored tokens that `horizon` and `teacher` are of.
        """
        (bundle,) = self._bundle
        base, net, policy = bundle.base, bundle.gistnet, bundle.config.positions
        losses: dict[str, Tensor] = {}
        teacher = None
        if weights.plain or weights.teacher:
            with torch.set_grad_enabled(torch.is_grad_enabled() and weights.plain > 0):
                hidden = hidden_plain(base, window, policy, ids, window.distant_tokens)
            if weights.teacher:
                with torch.no_grad():
                    teacher = base.unembed(predicting(hidden, window)[counted])
            if weights.plain:
                chosen = torch.rand(ids[:, 1:].shape, generator=generator) < _PLAIN_SHARE
                # Of planted windows the answers always: they are few, and what the base must not forget.
                chosen[:, -window.scored_tokens :] |= counted & ~counted.all(dim=1, keepdim=True)
                chosen[:, -1] = True
                losses["plain"] = nn.functional.cross_entropy(
                    base.unembed(hidden[:, :-1][chosen]), ids[:, 1:][chosen]
                )
        if not weights.reads_gists:
            return losses
        gists = make_gists(net, base, window, ids)
        if weights.pooling:
            losses["pooling"] = pooling_loss(gists, make_gists(_mean(bundle), base, window, ids))
        if weights.separation:
            losses["separation"] = separation_loss(
                gists.reshape(-1, net.config.slots * base.width), self.margin
            )
        if weights.reconstruction:
            losses["reconstruction"] = self.decoding(base, window, policy, gists, ids)
        if weights.horizon or weights.teacher or weights.next_gist:
            hidden = hidden_behind(base, window, policy, gists, ids)
            if weights.horizon or weights.teacher:
                logits = base.unembed(predicting(hidden, window)[counted])
                losses["horizon"] = horizon_loss(logits, scored(ids, window)[counted])
                if teacher is not None:
                    losses["teacher"] = teacher_divergence(logits, teacher)
            if weights.next_gist:
                errors = self.prediction(base, net, window, gists, hidden, ids)
                losses["next_gist"] = torch.stack(list(errors.values())).mean()
                losses |= {f"next_gist_lod{lod}": error.detach() for lod, error in errors.items()}
        return losses


def _mean(bundle: Bundle) -> GistNet:
    kind = replace(bundle.config.gistnet, correction="none", mean_start=True)
    return GistNet(kind, width=bundle.base.width, block_size=bundle.config.block_size)


def train_gists(config: GistTrainConfig, data: GistData, telemetry: Telemetry) -> dict[str, Any]:
    """Train the parts of `data.bundle` and return each stage's first and last losses. Same seed, machine, weights."""
    return _Training(config, data, telemetry).run()


class _Training:
    def __init__(self, config: GistTrainConfig, data: GistData, telemetry: Telemetry):
        self.config, self.bundle, self.sampler, self.telemetry = config, data.bundle, data.sampler, telemetry
        self.rng, self.generator = (
            np.random.default_rng(config.seed),
            torch.Generator().manual_seed(config.seed),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.objective = GistObjective(self.bundle, config.margin)
        self.began = time.monotonic()
        self.done = self.seen = 0

    def run(self) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for _, part in self.bundle.parts():
            part.requires_grad_(False)
        for stage in self.config.stages:
            with self._trained(stage) as optimisers:
                told = self._stage(stage, optimisers)
            for name, values in told.items():
                figures[f"{stage.name}_{name}_first"] = float(np.mean(values[:_TOLD]))
                figures[f"{stage.name}_{name}_last"] = float(np.mean(values[-_TOLD:]))
        return figures | {"train_s": time.monotonic() - self.began, "tokens_seen": self.seen}

    @contextmanager
    def _trained(self, stage: GistStage) -> Iterator[Optimisers]:
        """Optimisers over what the stage trains; everything else is frozen while it lasts."""
        bundle = self.bundle
        own: list[nn.Module] = self.objective.needed(stage.weights)
        own += [bundle.gistnet] if stage.gistnet == "trained" else []
        whole = [*own, bundle.base] if stage.base == "trained" else own
        for network in whole:
            network.requires_grad_(True)
        first = Group(parameters=[one for network in own for one in network.parameters()], lr=stage.lr)
        try:
            if stage.base == "lora":
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.config.seed)
                    changes = low_rank(bundle.base, self.config.lora_rank)
                    with changes as parameters:
                        yield Optimisers([first, Group(parameters=parameters, lr=stage.base_lr)])
            else:
                base = list(bundle.base.parameters()) if stage.base == "trained" else []
                yield Optimisers([first, Group(parameters=base, lr=stage.base_lr)])
        finally:
            for network in whole:
                network.requires_grad_(False)

    def _stage(self, stage: GistStage, optimisers: Optimisers) -> dict[str, list[float]]:
        told: dict[str, list[float]] = defaultdict(list)
        with Progress(f"{stage.name}: steps", stage.steps) as progress:
            for step in range(stage.steps):
                window = self._window(stage, step)
                drawn = self.sampler.batch(self.rng, stage.batch, window, stage.planted_share)
                ids, counted = (torch.from_numpy(one) for one in drawn)
                losses = self.objective(window, stage.weights, ids, counted, self.generator)
                weights = stage.weights.named()
                total = torch.stack(
                    [weights[name] * loss for name, loss in losses.items() if name in weights]
                ).sum()
                if not math.isfinite(total.item()):
                    raise ConfigError(
                        f"{stage.name}'s loss must be finite, got {total.item()} at step {step}; lower its rates"
                    )
                total.backward()
                factor = stage.factor(step)
                optimisers.step(factor)
                self.done += 1
                self.seen += ids.numel()
                for name, loss in losses.items():
                    told[name].append(loss.item())
                if (step + 1) % _LOG_EVERY == 0 or step + 1 == stage.steps:
                    self._log(stage, told, total.item(), factor)
                progress.advance(
                    " · ".join(f"{name} {np.mean(rows[-10:]):.3f}" for name, rows in told.items())
                )
        return told

    def _window(self, stage: GistStage, step: int) -> EmbeddingWindow:
        """Of this step: as many blocks as the curriculum has reached at most."""
        reached = min(1.0, 2 * (step + 1) / stage.steps)
        most = stage.min_blocks + round((stage.max_blocks - stage.min_blocks) * reached)
        blocks = int(self.rng.integers(stage.min_blocks, most + 1))
        coarse = int(self.rng.integers(0 if blocks else 1, stage.max_coarse + 1)) if stage.max_coarse else 0
        return stage.window(self.bundle.config.block_size, blocks, coarse)

    def _log(self, stage: GistStage, told: dict[str, list[float]], total: float, factor: float) -> None:
        last = {name: float(np.mean(values[-_LOG_EVERY:])) for name, values in told.items()}
        seconds = time.monotonic() - self.began
        self.telemetry.emit(
            "train",
            stage=stage.name,
            step=self.done,
            wall_s=seconds,
            tokens_seen=self.seen,
            loss_nats=total,
            learning_rate=factor * stage.lr,
            tokens_per_s=self.seen / seconds,
            **{_COLUMNS[name]: value for name, value in last.items() if name in _COLUMNS},
        )
