"""Base model and GistNet, trained together by the next-token loss over mixed contexts with questions.

Retrieval needs induction, and induction is slow to appear in a small model. Two things bring it about in minutes.
The start: the first layer's heads look nearby (each at its own range), later layers begin with equal query and key
maps, output maps undo value maps, and the head begins as a copy of the embedding. So the network starts out
gathering what stands around each token, attending to places with like surroundings, and saying what stands there.
(Figures against a plain start: obsidian/results/Results.md.) And a curriculum: short, dense stretches first, then
longer ones with distractors, then gists in place of most blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.errors import ConfigError
from megacontext.models.gpt import GPT
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.telemetry import Telemetry
from megacontext.train.contexts import IGNORED, ContextBatch, ContextSampler, ContextSpec
from megacontext.train.optimisers import OptimiserConfig, Optimisers


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the curriculum."""

    name: str
    steps: int
    batch: int
    contexts: ContextSpec

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ConfigError(
                f"stage {self.name!r} needs steps and batch of at least 1, got {self.steps} and {self.batch}"
            )


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """The start that brings induction about (see the module's docstring)."""

    copy_scale: float = 1.0
    """Scale of the output maps, each the transpose of its value map."""
    head_tie: float = 0.1
    """Scale of the embedding in the head."""
    common: float = 0.5
    """Share of a direction that all embeddings have in common; the first layer attends by it, whatever the token."""
    reach_tokens: tuple[float, ...] = (1.0, 3.0, 6.0, 12.0)
    """How far the heads of the first layer look, in turn."""
    noise: float = 0.1
    """What is left of a random start in the first layer's query and key maps."""


@dataclass(frozen=True, kw_only=True)
class BaseTrainConfig:
    """How base and GistNet are trained."""

    stages: tuple[Stage, ...] = ()
    start: StartConfig = field(default_factory=StartConfig)
    """Of a model that is trained from scratch."""
    gists: bool = True
    """Whether input embeddings and GistNet learn. Without them every gist that was made stays valid."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    answer_weight: float = 2.0
    """Weight of the answers' loss beside the text's."""
    text_share: float = 0.25
    """Share of the text positions whose loss is computed: the head is the costliest part of a small model."""

    def __post_init__(self) -> None:
        if not 0 < self.text_share <= 1:
            raise ConfigError(f"base.text_share must lie in (0, 1], got {self.text_share}")


@torch.no_grad()
def start_for_retrieval(model: GPT, generator: torch.Generator, start: StartConfig) -> None:
    """Initialise `model` so that it gathers its neighbourhood, attends to what looks alike, and copies it."""
    config = model.config
    bound = 3**0.5 * config.n_embd**-0.5
    for name, parameter in model.named_parameters():
        if name.endswith("wte.weight"):
            parameter.normal_(generator=generator)
        elif "gate" in name or name.endswith("mlp.c_proj.weight"):
            parameter.zero_()
        elif parameter.ndim == 2:
            parameter.uniform_(-bound, bound, generator=generator)
    group = config.n_head // config.n_kv_head
    for layer, block in enumerate(model.transformer["h"]):
        attention = block.attn
        values = attention.c_v.weight.view(config.n_kv_head, config.head_dim, -1)
        undo = values.repeat_interleave(group, dim=0).reshape(config.n_embd, -1)
        attention.c_proj.weight.copy_(start.copy_scale * undo.T)
        if layer:
            queries = attention.c_q.weight.view(config.n_kv_head, group, config.head_dim, -1)
            attention.c_k.weight.copy_(queries[:, 0].reshape(attention.c_k.weight.shape))
    table = model.transformer["wte"].weight
    common = torch.randn(config.n_embd, generator=generator)
    common *= config.n_embd**0.5 / common.norm()
    own = (1 - start.common**2) ** 0.5 * table
    table.copy_(own + start.common * common)
    model.lm_head.weight.copy_(start.head_tie * own)
    _look_nearby(model, common, start)
    if model.dialect.residual_scalars:
        model.x0_lambdas.fill_(0.1)
    if model.dialect.smear:
        model.smear_lambda.fill_(1.0)


def _look_nearby(model: GPT, common: Tensor, start: StartConfig) -> None:
    """Let each head of the first layer attend by distance alone, with the reach that is its turn.

    Query and key are the same vector for every token, so their product is a sum of cosines of the distance; the
    rotary pairs whose wavelength suits the reach carry it.
    """
    config, attention = model.config, model.transformer["h"][0].attn
    half = config.head_dim // 2
    log_wavelength = torch.arange(half) / half * math.log(model.dialect.rope_base)
    for weight, heads in ((attention.c_q.weight, config.n_head), (attention.c_k.weight, config.n_kv_head)):
        weight.mul_(start.noise)
        for head in range(heads):
            turn = head * (config.n_head // heads) % len(start.reach_tokens)
            carried = torch.exp(-((log_wavelength - math.log(start.reach_tokens[turn])) ** 2) / 2)
            direction = F.normalize(torch.cat((carried, torch.zeros(half))), dim=0)
            rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
            weight[rows] += 3 * config.head_dim**0.5 / config.n_embd * torch.outer(direction, common)


class MixedContextLoss(nn.Module):
    """Next-token loss of a batch of mixed contexts; base and GistNet receive its gradient."""

    def __init__(self, bundle: Bundle, config: BaseTrainConfig):
        super().__init__()
        self.bundle, self.config = bundle, config

    def hidden(self, batch: ContextBatch) -> Tensor:
        """Hidden states (B, W, E) of the batch's contexts."""
        base, gistnet = self.bundle.base, self.bundle.gistnet
        ids = torch.from_numpy(batch.ids)
        embeddings = base.embed(ids.clamp_min(0)) * (ids >= 0)[..., None]
        if len(batch.gist_slots):
            gists = gistnet(base.embed(torch.from_numpy(batch.gist_tokens)), 1)
            embeddings = embeddings.index_put(tuple(torch.from_numpy(batch.gist_slots).T), gists)
        if len(batch.coarse_slots):
            tokens = torch.from_numpy(batch.coarse_tokens)
            with torch.no_grad():
                children = gistnet(base.embed(tokens.flatten(0, 1)), 1).unflatten(0, tokens.shape[:2])
            embeddings = embeddings.index_put(
                tuple(torch.from_numpy(batch.coarse_slots).T), gistnet(children, 2)
            )
        return base(embeddings, torch.from_numpy(batch.positions), ids=ids)

    def forward(self, batch: ContextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses in nats per token: `loss` to minimise, `text`, `answer`; and `accuracy` of the answers' tokens."""
        targets, is_answer = torch.from_numpy(batch.targets), torch.from_numpy(batch.is_answer)
        chosen = torch.rand(targets.shape, generator=generator) < self.config.text_share
        chosen = (chosen & (targets != IGNORED)) | is_answer
        logits = self.bundle.base.unembed(self.hidden(batch)[chosen])
        wanted, answers = targets[chosen], is_answer[chosen]
        nats = F.cross_entropy(logits, wanted, reduction="none")
        text, answer = nats[~answers].mean(), nats[answers].mean()
        right = (logits.argmax(dim=-1) == wanted)[answers].float().mean()
        return {
            "loss": text + self.config.answer_weight * answer,
            "text": text,
            "answer": answer,
            "accuracy": right,
        }


def train_base(
    bundle: Bundle,
    sampler: ContextSampler,
    config: BaseTrainConfig,
    *,
    seed: int,
    telemetry: Telemetry,
    scratch: bool = True,
    after_stage: Callable[[], None] = lambda: None,
) -> None:
    """Run the curriculum, from scratch or from the weights as they are. Same seed, same machine, same weights."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    if scratch:
        start_for_retrieval(bundle.base, generator, config.start)
    objective = MixedContextLoss(bundle, config)
    learning = (bundle.base, bundle.gistnet) if config.gists else (bundle.base,)
    still = () if config.gists else (bundle.base.transformer["wte"], bundle.gistnet)
    optimisers = Optimisers(config.optimiser.groups(learning))
    with holding_still(*still):
        _run(objective, sampler, config, optimisers, rng, generator, telemetry, after_stage)


@contextmanager
def holding_still(*networks: nn.Module) -> Iterator[None]:
    """No parameter of these gets a gradient, so no optimiser moves it."""
    held = [weight for network in networks for weight in network.parameters() if weight.requires_grad]
    for weight in held:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in held:
            weight.requires_grad_(True)


def _run(
    objective: MixedContextLoss,
    sampler: ContextSampler,
    config: BaseTrainConfig,
    optimisers: Optimisers,
    rng: np.random.Generator,
    generator: torch.Generator,
    telemetry: Telemetry,
    after_stage: Callable[[], None],
) -> None:
    """Every step of every stage."""
    total = sum(stage.steps for stage in config.stages)
    done = seen = 0
    began = time.monotonic()
    with Progress("base and GistNet", total) as progress:
        for stage in config.stages:
            for _ in range(stage.steps):
                batch = sampler.batch(rng, stage.batch, stage.contexts)
                losses = objective(batch, generator)
                losses["loss"].backward()
                factor = config.optimiser.factor(done, total)
                optimisers.step(factor)
                seen += int((batch.ids >= 0).sum())
                done += 1
                if done % 10 == 0 or done == total:
                    seconds = time.monotonic() - began
                    telemetry.emit(
                        "train",
                        stage=stage.name,
                        step=done,
                        wall_s=seconds,
                        tokens_seen=seen,
                        loss_nats=losses["loss"].item(),
                        lm_loss_nats=losses["text"].item(),
                        answer_loss_nats=losses["answer"].item(),
                        answer_accuracy=losses["accuracy"].item(),
                        learning_rate=factor * config.optimiser.matrix_lr,
                        tokens_per_s=seen / seconds,
                    )
                progress.advance(
                    f"{stage.name} · text {losses['text'].item():.2f} · answers {losses['accuracy'].item():.0%}"
                    if done % 10 == 0
                    else None
                )
            after_stage()
