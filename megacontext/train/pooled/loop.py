"""Training pooled gists of a frozen decoder, from whole documents, in two stages.

First `matching`, then what the decoder says: behind gists it is to say what it says behind the tokens (Kullback-Leibler
divergence from the decoder that reads everything; its whole distribution teaches more than the one token that came).
A constant prefix, the control, goes through the second stage in the place of gists.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.corpus.documents import Document, cut_segments, load_documents
from megacontext.errors import ConfigError
from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache
from megacontext.models.block_caches import read_segment
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.progress import Progress
from megacontext.runtime.gist_windows import pooled_gists, scored_hidden
from megacontext.runtime.pooled_gists import FrozenDecoder, open_decoder
from megacontext.telemetry import Telemetry
from megacontext.train.pooled.config import PooledTrainConfig
from megacontext.train.pooled.matching import matching_loss

_LOG_EVERY = 5


@dataclass(frozen=True)
class PooledData:
    """What a training reads, loaded and checked before anything is written."""

    decoder: FrozenDecoder
    documents: list[Document]


def load_pooled_data(config: PooledTrainConfig) -> PooledData:
    """The decoder and the documents as its ids. Raises what opening either raises."""
    decoder = open_decoder(config.base, config.device, config.precision, config.sink)
    documents = load_documents(config.documents, decoder.encode)
    cut_segments(documents, config.segment_blocks * config.block_size)
    return PooledData(decoder, documents)


def train_pooled(
    config: PooledTrainConfig, data: PooledData, telemetry: Telemetry
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained net (or constant prefix) and the figures of its training."""
    return _Training(config, data, telemetry).run()


class _Training:
    def __init__(self, config: PooledTrainConfig, data: PooledData, telemetry: Telemetry):
        self.config, self.base, self.sink_id = config, data.decoder.base, data.decoder.sink_id
        self.telemetry = telemetry
        rng = np.random.default_rng(config.seed)
        segments = cut_segments(data.documents, config.segment_blocks * config.block_size, rng)
        self.segments = [segments[number].ids for number in rng.permutation(len(segments))]
        self.chance = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net: nn.Module = PooledCache(
                config.pooled, entry_shape=self.base.entry_shape, block_size=config.block_size
            )
            net.to(self.base.device)
            self.net = self._constant(net) if config.constant else net
        self.shape = config.shape
        self.began = time.perf_counter()
        self.done = 0
        self.told: dict[str, list[float]] = {"matching": [], "distill": [], "distill_ce": []}

    def _constant(self, net: nn.Module) -> ConstantPrefix:
        """Starts as the means of some text's blocks."""
        assert isinstance(net, PooledCache)
        caches = read_segment(self.base, self._segment(0), net.block_size, self.sink_id)
        count = self.config.distill.distant_blocks
        with torch.no_grad():
            keys, values = net(caches.blocks.keys[:, :count], caches.blocks.values[:, :count], self.base.turn)
        return ConstantPrefix(keys, values).to(self.base.device)

    def _segment(self, number: int) -> Tensor:
        ids = self.segments[number % len(self.segments)].astype(np.int64)
        return torch.from_numpy(ids).to(self.base.device)

    def run(self) -> tuple[nn.Module, dict[str, Any]]:
        config = self.config
        if not config.constant:
            self._stage("matching", config.matching.steps, self._matching_rates(), self._match)
        self._stage("distill", config.distill.steps, self._distill_rates(), self._distill)
        seconds = time.perf_counter() - self.began
        figures: dict[str, Any] = {
            "train_s": seconds,
            "parameters": sum(one.numel() for one in self.net.parameters()),
            "segments": len(self.segments),
        }
        for name, losses in self.told.items():
            if losses:
                figures[f"{name}_first"] = float(np.mean(losses[:10]))
                figures[f"{name}_last"] = float(np.mean(losses[-10:]))
        return self.net, figures

    def _matching_rates(self) -> list[dict[str, Any]]:
        return [{"params": list(self.net.parameters()), "lr": self.config.matching.lr}]

    def _distill_rates(self) -> list[dict[str, Any]]:
        distill, nets, heads = self.config.distill, [], []
        for name, parameter in self.net.named_parameters():
            is_net = name.rpartition(".")[2] in {"linear", "inner", "inner_bias", "outer"}
            (nets if is_net else heads).append(parameter)
        groups = [{"params": nets, "lr": distill.net_lr}, {"params": heads, "lr": distill.head_lr}]
        return [group for group in groups if group["params"]]

    def _stage(self, name: str, steps: int, groups: list[dict[str, Any]], loss_of: Any) -> None:
        if not steps:
            return
        optimiser = torch.optim.Adam(groups, betas=(0.9, 0.98))
        full = [group["lr"] for group in optimiser.param_groups]
        with Progress(f"{name}: steps", steps) as progress:
            for step in range(steps):
                share = self._matching_share(step) if name == "matching" else self._distill_share(step)
                for group, rate in zip(optimiser.param_groups, full, strict=True):
                    group["lr"] = rate * share
                loss = loss_of(self._segment(self.done))
                value = loss.item()
                if not math.isfinite(value):
                    raise ConfigError(
                        f"{name}'s loss must be finite, got {value} at step {step}; lower {name}'s rates"
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                self.done += 1
                self.told[name].append(value)
                if step % _LOG_EVERY == 0 or step + 1 == steps:
                    self._log(name, value, full[0] * share)
                progress.advance(f"loss {np.mean(self.told[name][-10:]):.4f}")

    def _matching_share(self, step: int) -> float:
        matching = self.config.matching
        return 1 - (1 - matching.final_share) * step / matching.steps

    def _distill_share(self, step: int) -> float:
        distill = self.config.distill
        falling = distill.final_share + (1 - distill.final_share) * 0.5 * (
            1 + math.cos(math.pi * step / distill.steps)
        )
        return min(1.0, (step + 1) / max(1, distill.warmup_steps)) * falling

    def _log(self, stage: str, value: float, rate: float) -> None:
        tokens = self.done * self.config.segment_blocks * self.config.block_size
        row: dict[str, Any] = {
            "step": self.done,
            "stage": stage,
            "wall_s": time.perf_counter() - self.began,
            "tokens_seen": tokens,
            "learning_rate": rate,
        }
        if stage == "matching":
            row["attention_error"] = value
        else:
            row |= {"loss_nats": value, "lm_loss_nats": self.told["distill_ce"][-1]}
        self.telemetry.emit("train", **row)

    def _match(self, ids: Tensor) -> Tensor:
        assert isinstance(self.net, PooledCache) and isinstance(self.base, HuggingFaceBase)
        return matching_loss(
            self.base, self.net, ids, self.sink_id, self.config.matching.queries, self.chance
        )

    def _distill(self, ids: Tensor) -> Tensor:
        """Divergence of what is said behind gists from what is said behind all tokens, nats a token."""
        base, shape = self.base, self.shape
        caches = read_segment(base, ids, shape.block_size, self.sink_id)
        places = self.config.segment_blocks - shape.blocks + 1
        count = min(self.config.distill.windows, places)
        starts = torch.randperm(places, generator=self.chance)[:count].to(ids.device)
        rows = shape.rows(ids, starts)
        gists = pooled_gists(self.net, base, caches, shape.gist_blocks(starts))
        said = base.unembed(scored_hidden(base, caches, shape, starts, rows, gists)).log_softmax(dim=-1)
        with torch.no_grad():
            first = shape.first_token(starts) + shape.raw_tokens - 1
            at = first[:, None] + torch.arange(shape.scored_tokens, device=ids.device)
            wanted = base.unembed(caches.hidden[at]).log_softmax(dim=-1)
            targets = rows[:, shape.raw_tokens :]
            self.told["distill_ce"].append(F.nll_loss(said.flatten(0, 1), targets.flatten()).item())
        return F.kl_div(said.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="batchmean")
