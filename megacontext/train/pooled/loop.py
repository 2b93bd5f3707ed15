"""Training pooled gists of a frozen decoder, from whole documents, in two stages.

First `matching`, then what the decoder says: behind gists it is to say what it says behind the tokens (Kullback-Leibler
divergence from the decoder that reads everything; its whole distribution teaches more than the one token that came).
A constant prefix, the control, goes through the second stage in the place of gists.

A level above is trained alone, on what the levels below make: then a segment is read once, and of the gists of its
blocks and the decoder's own hidden states, which do not change, every later window is made.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.corpus.documents import Document, cut_segments, load_documents
from megacontext.errors import ConfigError
from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache
from megacontext.models.block_caches import SegmentCaches, read_apart, read_segment
from megacontext.models.entries import CacheEntries
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.progress import Progress
from megacontext.runtime.gist_windows import (
    WindowShape,
    in_time_order,
    parent_gists,
    picked_gists,
    pooled_gists,
    scored_hidden,
)
from megacontext.runtime.pooled_gists import FrozenDecoder, load_pooled, open_decoder, pooled_folder
from megacontext.runtime.segment_gists import SegmentReader
from megacontext.telemetry import Telemetry
from megacontext.train.pooled.config import PooledTrainConfig
from megacontext.train.pooled.matching import matching_loss, parent_matching_loss, watch_segment
from megacontext.train.pooled.state import read_state, restore_optimiser, save_state

_LOG_EVERY = 5
_BELOW = "below"


@dataclass(frozen=True)
class PooledData:
    """What a training reads, loaded and checked before anything is written."""

    decoder: FrozenDecoder
    documents: list[Document]
    initial: PooledCache | None = None
    """Gists to go on from."""
    told: dict[str, Any] = field(default_factory=dict)
    """How those were made."""


def load_pooled_data(config: PooledTrainConfig) -> PooledData:
    """The decoder, the documents as its ids, and gists to go on from. Raises what opening one of them raises."""
    decoder = open_decoder(config.base, config.device, config.precision, config.sink)
    documents = load_documents(config.documents, decoder.encode)
    segments = cut_segments(documents, config.segment_blocks * config.block_size)
    _reaching(segments, config.distill.reach_segments)
    if not config.initial:
        return PooledData(decoder, documents)
    initial, told = load_pooled(pooled_folder(config.initial), decoder)
    if not isinstance(initial, PooledCache) or initial.block_size != config.block_size:
        raise ConfigError(
            f"a training goes on from pooled gists of blocks of {config.block_size} tokens, {config.initial} holds "
            "others; name others or change block_size"
        )
    if initial.config.hidden != config.pooled.hidden:
        raise ConfigError(
            f"a training goes on with as many hidden units, {config.initial} has {initial.config.hidden}, got "
            f"pooled.hidden = {config.pooled.hidden}; change it"
        )
    return PooledData(decoder, documents, initial, told)


def train_pooled(
    config: PooledTrainConfig, data: PooledData, telemetry: Telemetry, run: Path, *, resume: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained net (or constant prefix) and the figures of its training.

    States are saved in the folder `run`; with `resume` it goes on from the one there. Raises CheckpointError for none.
    """
    training = _Training(config, data, telemetry, run)
    if resume:
        training.restore()
    return training.run()


class _Training:
    def __init__(self, config: PooledTrainConfig, data: PooledData, telemetry: Telemetry, folder: Path):
        self.config, self.base, self.sink_id = config, data.decoder.base, data.decoder.sink_id
        self.telemetry, self.folder = telemetry, folder
        self.segments = chosen_segments(config, data.documents)
        self.chance = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = PooledCache(config.pooled, entry_shape=self.base.entry_shape, block_size=config.block_size)
        if data.initial is not None:
            net.begin_from(data.initial)
        net.to(self.base.device)
        self.net: nn.Module = self._constant(net) if config.constant else net
        self.trained = self.net if config.constant else net.levels[-1]
        self.net.requires_grad_(False)
        self.trained.requires_grad_(True)
        self.reader: SegmentReader | None = None
        """Of what the levels below make, for a level above."""
        if len(net.levels) > 1:
            self.reader = SegmentReader(
                data.decoder,
                {_BELOW: net},
                config.block_size,
                folder / "segments",
                piece_blocks=config.piece_blocks,
                with_hidden=config.distill.reach_segments == 1,
            )
        self.began = time.perf_counter()
        self.done = 0
        self.told: dict[str, list[float]] = {"matching": [], "distill": [], "distill_ce": []}
        self.remembered: dict[str, Tensor] = {}
        """Of the optimiser that was at work when the state was saved."""

    def restore(self) -> None:
        """Go to where the saved state was taken."""
        tensors, about = read_state(self.folder)
        own = {
            name.removeprefix("net."): one.to(self.base.device)
            for name, one in tensors.items()
            if name.startswith("net.")
        }
        self.net.load_state_dict(own)
        self.chance.set_state(tensors["chance"])
        self.done, self.told = about["done"], about["told"]
        self.began -= about["wall_s"]
        self.remembered = tensors

    def _constant(self, net: PooledCache) -> ConstantPrefix:
        """Starts as the means of some text's blocks."""
        caches = self._read(self._segment(0))
        count = self.config.distill.distant_blocks
        with torch.no_grad():
            keys, values = net(caches.blocks.keys[:, :count], caches.blocks.values[:, :count], self.base.turn)
        return ConstantPrefix(keys, values).to(self.base.device)

    def _segment(self, number: int) -> Tensor:
        return self._pieces(number)[-1]

    def _pieces(self, number: int) -> list[Tensor]:
        """A segment and those before it that its windows reach over."""
        pieces = self.segments[number % len(self.segments)]
        return [torch.from_numpy(one.astype(np.int64)).to(self.base.device) for one in pieces]

    def _read(self, ids: Tensor) -> SegmentCaches:
        """A segment's caches, with those of its blocks that gists are made of."""
        caches = read_segment(self.base, ids, self.config.block_size, self.sink_id)
        apart = self._apart(ids)
        return caches if apart is None else replace(caches, blocks=apart)

    def _apart(self, ids: Tensor) -> CacheEntries | None:
        """Caches of a segment's blocks that were read in pieces; None where the segment is one."""
        pieces = self.config.piece_blocks
        if pieces is None:
            return None
        return read_apart(self.base, ids, self.config.block_size, self.sink_id, pieces)

    def run(self) -> tuple[nn.Module, dict[str, Any]]:
        config = self.config
        if not config.constant:
            self._stage("matching", config.matching.steps, self._matching_rates(), self._match)
        self._stage("distill", config.distill.steps, self._distill_rates(), self._distill)
        seconds = time.perf_counter() - self.began
        figures: dict[str, Any] = {
            "train_s": seconds,
            "parameters": sum(one.numel() for one in self.trained.parameters()),
            "segments": len(self.segments),
        }
        for name, losses in self.told.items():
            if losses:
                figures[f"{name}_first"] = float(np.mean(losses[:10]))
                figures[f"{name}_last"] = float(np.mean(losses[-10:]))
        return self.net, figures

    def _matching_rates(self) -> list[dict[str, Any]]:
        return [{"params": list(self.trained.parameters()), "lr": self.config.matching.lr}]

    def _distill_rates(self) -> list[dict[str, Any]]:
        distill, nets, heads = self.config.distill, [], []
        for name, parameter in self.trained.named_parameters():
            is_net = name.rpartition(".")[2] in {"linear", "inner", "inner_bias", "outer"}
            (nets if is_net else heads).append(parameter)
        groups = [{"params": nets, "lr": distill.net_lr}, {"params": heads, "lr": distill.head_lr}]
        return [group for group in groups if group["params"]]

    def _stage(self, name: str, steps: int, groups: list[dict[str, Any]], loss_of: Any) -> None:
        if not steps:
            return
        optimiser = torch.optim.Adam(groups, betas=(0.9, 0.98))
        full = [group["lr"] for group in optimiser.param_groups]
        before = len(self.told[name])  # of a training that goes on
        if 0 < before < steps:
            restore_optimiser(optimiser, self.remembered)
        with Progress(f"{name}: steps", steps) as progress:
            progress.advance(steps=before)
            for step in range(before, steps):
                share = self._matching_share(step) if name == "matching" else self._distill_share(step)
                for group, rate in zip(optimiser.param_groups, full, strict=True):
                    group["lr"] = rate * share
                loss = loss_of(self.done % len(self.segments))
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
                if (step + 1) % self.config.save_every == 0 or step + 1 == steps:
                    wall_s = time.perf_counter() - self.began
                    save_state(
                        self.folder, self.net, optimiser, self.chance,
                        done=self.done, told=self.told, wall_s=wall_s,
                    )  # fmt: skip
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

    def _match(self, number: int) -> Tensor:
        assert isinstance(self.net, PooledCache) and isinstance(self.base, HuggingFaceBase)
        queries, ids = self.config.matching.queries, self._segment(number)
        read = watch_segment(self.base, ids, self.net.block_size, self.sink_id)
        if self.reader is None:
            return matching_loss(self.base, self.net, read, queries, self.chance, self._apart(ids))
        gists = self.reader.read(ids, read.caches).gists[_BELOW]
        return parent_matching_loss(self.base, self.net, gists, read, queries, self.chance)

    def _distill(self, number: int) -> Tensor:
        """How far what is said behind gists is from what is to be said, nats a token."""
        shape = self._drawn_shape()
        if self.config.distill.reach_segments > 1:
            return self._surprise(self._pieces(number), shape)
        ids, starts = self._segment(number), self._starts(shape)
        return self._divergence(ids, shape, starts, *self._gists(ids, shape, starts))

    def _drawn_shape(self) -> WindowShape:
        """Of the windows of one step."""
        config = self.config
        blocks = self._drawn(config.fewest_blocks, config.distill.distant_blocks)
        return config.shape_with(blocks, self._drawn(config.fewest_parents, config.distill.distant_parents))

    def _starts(self, shape: WindowShape) -> Tensor:
        """Blocks (B,) that the windows of one step begin at."""
        places = self.config.places(shape)
        drawn = torch.randperm(len(places), generator=self.chance)[: self.config.distill.windows]
        return (places.start + places.step * drawn).to(self.base.device)

    def _drawn(self, fewest: int, most: int) -> int:
        if fewest == most:
            return most
        return int(torch.randint(fewest, most + 1, (1,), generator=self.chance))

    def _gists(
        self, ids: Tensor, shape: WindowShape, starts: Tensor
    ) -> tuple[CacheEntries, Tensor, CacheEntries]:
        """The windows' gists, and of the segment the hidden states (T, E) and the sink."""
        if self.reader is None:
            caches = self._read(ids)
            return (
                pooled_gists(self.net, self.base, caches, shape.gist_blocks(starts)),
                caches.hidden,
                caches.sink,
            )
        read = self.reader.read(ids)
        assert read.hidden is not None
        return self._both_levels(read.gists[_BELOW], shape, starts), read.hidden, self.reader.sink

    def _both_levels(self, below: CacheEntries, shape: WindowShape, starts: Tensor) -> CacheEntries:
        """The windows' gists of gists and of blocks, out of those of all blocks of a text."""
        assert isinstance(self.net, PooledCache)
        parents = parent_gists(self.net, self.base, below, shape.parent_blocks(starts))
        return in_time_order([parents, picked_gists(below, shape.gist_blocks(starts))])

    def _surprise(self, pieces: list[Tensor], shape: WindowShape) -> Tensor:
        """Cross-entropy of the tokens that came, in windows over several segments."""
        assert self.reader is not None
        starts = self._starts(shape)
        read = [self.reader.read(piece).gists[_BELOW] for piece in pieces]
        below = CacheEntries(
            torch.cat([one.keys for one in read], dim=1), torch.cat([one.values for one in read], dim=1)
        )
        rows = shape.rows(torch.cat(pieces), starts)
        gists = self._both_levels(below, shape, starts)
        said = self.base.unembed(scored_hidden(self.base, self.reader.sink, shape, starts, rows, gists))
        loss = F.cross_entropy(said.flatten(0, 1).float(), rows[:, shape.raw_tokens :].flatten())
        self.told["distill_ce"].append(loss.item())
        return loss

    def _divergence(
        self,
        ids: Tensor,
        shape: WindowShape,
        starts: Tensor,
        gists: CacheEntries,
        hidden: Tensor,
        sink: CacheEntries,
    ) -> Tensor:
        base, rows = self.base, shape.rows(ids, starts)
        said = base.unembed(scored_hidden(base, sink, shape, starts, rows, gists)).log_softmax(dim=-1)
        with torch.no_grad():
            first = shape.first_token(starts) + shape.raw_tokens - 1
            at = first[:, None] + torch.arange(shape.scored_tokens, device=ids.device)
            wanted = base.unembed(hidden[at]).log_softmax(dim=-1)
            targets = rows[:, shape.raw_tokens :]
            self.told["distill_ce"].append(F.nll_loss(said.flatten(0, 1), targets.flatten()).item())
        return F.kl_div(said.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="batchmean")


def chosen_segments(config: PooledTrainConfig, documents: list[Document]) -> list[list[np.ndarray]]:
    """Those that windows end in, in the order of training, each behind those that its windows reach over."""
    rng = np.random.default_rng(config.seed)
    segments = cut_segments(documents, config.segment_blocks * config.block_size, rng)
    whole = _reaching(segments, config.distill.reach_segments)
    return [whole[number] for number in rng.permutation(len(whole))[: config.segments]]


def _reaching(segments: list[Document], reach: int) -> list[list[np.ndarray]]:
    """Every segment with the `reach - 1` before it, of those that have so many in their document.

    Raises ConfigError if there is none.
    """
    found = [
        [one.ids for one in segments[last - reach + 1 : last + 1]]
        for last in range(reach - 1, len(segments))
        if segments[last - reach + 1].name == segments[last].name
    ]
    if not found:
        raise ConfigError(
            f"windows reach over {reach} segments and no document has so many; name longer ones or lower "
            "distill.reach_segments"
        )
    return found
