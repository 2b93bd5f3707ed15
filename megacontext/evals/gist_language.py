"""What cache gists are worth to a frozen decoder in plain language modelling, at equal positions.

A window is G distant blocks, some raw tokens and then the tokens that are scored, all of one document that nothing was
trained on. Every arm predicts the same tokens. Those that have gists spend G positions on the distant blocks; `drop`
spends as many on more recent tokens; `none` spends them on nothing; `full` reads the distant blocks as tokens. All
arms have the same sink. Headroom is drop minus full: below a tenth of a nat there is nothing to win, and figures are
not to be read.

`wrong` arms are given gists of another document at the same places: right minus wrong is content, and not what any
trained entries give. `constant` is the control of that: one trained prefix for all texts.

Windows of one segment are no independent samples: intervals are over segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.corpus.documents import Document, cut_segments, load_documents
from megacontext.errors import ConfigError
from megacontext.evals.evaluation import write_frame
from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig
from megacontext.models.block_caches import SegmentCaches, read_segment
from megacontext.models.entries import CacheEntries
from megacontext.progress import Progress
from megacontext.runtime.bases import Precision
from megacontext.runtime.gist_windows import WindowShape, pooled_gists, scored_hidden
from megacontext.runtime.pooled_gists import FrozenDecoder, load_pooled, open_decoder, pooled_folder
from megacontext.runtime.run import RunFolder

LEAST_HEADROOM = 0.1
"""Nats a token."""
FULL, DROP, NONE, MEAN, MEAN_EMBEDDING = "full", "drop", "none", "mean-cache", "mean-embedding"


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """What is measured."""

    gists: tuple[str, ...] = ("smollm2-pooled",)
    """Trained gists and constant prefixes, of any number of seeds: folders in data/, or paths of folders."""
    documents: tuple[str, ...] = ("pride-and-prejudice", "northanger-abbey")
    """Held-out documents, two at least: see `corpus.documents`."""
    genre: str = "prose"
    """What the documents are, for the tables."""
    segments: int = 80
    """Segments that windows end in, spread evenly over the documents; fewer where there are fewer."""
    windows: int = 3
    """Windows that end in a segment, spread evenly over it."""
    reach_segments: int = 1
    """Segments of a document that a window may reach over, each read by itself: 2 for 4k tokens of history."""
    base: str = "smollm2"
    device: str = "cpu"
    precision: Precision = "bfloat16"
    sink: str = "<|endoftext|>"
    block_size: int = 32
    segment_blocks: int = 64
    distant_blocks: int = 12
    raw_tokens: int = 64
    scored_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        least = self.raw_tokens, self.scored_tokens, self.distant_blocks, self.windows, self.reach_segments
        if self.segments < 2 or min(least) < 1:
            raise ConfigError(
                "a measurement of gists needs at least 2 segments and 1 distant block, window, segment of reach, raw "
                f"and scored token, got {self.segments}, {self.distant_blocks}, {self.windows}, {self.reach_segments}, "
                f"{self.raw_tokens} and {self.scored_tokens}; raise them"
            )
        reach, behind = self.reach_segments * self.segment_blocks, self.shape.blocks - self.distant_blocks
        if self.shape.blocks > reach or behind > self.segment_blocks:
            raise ConfigError(
                f"a window takes {self.shape.blocks} blocks, {behind} of them behind the gists, and must fit "
                f"{self.reach_segments} segments of {self.segment_blocks} blocks; raise one of the two"
            )

    @property
    def shape(self) -> WindowShape:
        """Of every window."""
        return WindowShape(
            block_size=self.block_size,
            distant_blocks=self.distant_blocks,
            raw_tokens=self.raw_tokens,
            scored_tokens=self.scored_tokens,
        )


@dataclass(frozen=True)
class LanguagePreparation:
    """All that a measurement reads, loaded and checked before anything is written."""

    config: LanguageConfig
    decoder: FrozenDecoder
    nets: dict[str, nn.Module]
    """By the arm's name: gist-0, gist-1, ..., constant-0, ..."""
    segments: list[Document]
    """All that were cut, in order."""
    ends: list[int]
    """Numbers of those that windows end in."""


def prepare_language(config: LanguageConfig) -> LanguagePreparation:
    """Open the decoder, the trained gists and the documents. Raises what opening them raises, ConfigError."""
    decoder = open_decoder(config.base, config.device, config.precision, config.sink)
    nets: dict[str, nn.Module] = {}
    for folder in config.gists:
        net, description = load_pooled(pooled_folder(folder), decoder)
        if isinstance(net, PooledCache) and net.block_size != config.block_size:
            raise ConfigError(
                f"block_size must be that of the gists, those in {folder} stand for {net.block_size} tokens, got "
                f"{config.block_size}; change it"
            )
        trained = description.get("recipe", {}).get("documents", [])
        if both := sorted(set(trained) & set(config.documents)):
            raise ConfigError(
                f"held-out documents are not trained on, {', '.join(both)} was for {folder}; name others"
            )
        kind = "constant" if isinstance(net, ConstantPrefix) else "gist"
        nets[f"{kind}-{sum(name.startswith(kind) for name in nets)}"] = net
    documents = load_documents(config.documents, decoder.encode)
    segments = cut_segments(documents, config.segment_blocks * config.block_size)
    reach = config.reach_segments
    ends = [
        number
        for number, one in enumerate(segments)
        if number >= reach - 1 and segments[number - reach + 1].name == one.name
    ]
    if len({segments[number].name for number in ends}) < 2:
        raise ConfigError(
            "gists of a wrong document need windows in two documents at least, got fewer; name more or longer documents"
        )
    if len(ends) > config.segments:
        chosen = np.linspace(0, len(ends) - 1, config.segments).round().astype(int)
        ends = [ends[number] for number in chosen]
    return LanguagePreparation(config, decoder, nets, segments, ends)


def measure_language(prepared: LanguagePreparation, run: RunFolder) -> dict[str, Any]:
    """Score every window by every arm; rows go into the run as windows.parquet and line by line."""
    rows: list[dict[str, Any]] = []
    config = prepared.config
    mean = PooledCache(
        PooledCacheConfig(hidden=0),
        entry_shape=prepared.decoder.base.entry_shape,
        block_size=config.block_size,
    ).to(prepared.decoder.base.device)
    with Progress(f"{config.genre}: segments", len(prepared.ends)) as progress:
        for number in prepared.ends:
            for row in _segment_rows(prepared, mean, number):
                run.answer(row)
                rows.append(row)
            progress.advance()
    frame = pl.DataFrame(rows)
    write_frame(run, "windows", frame)
    results = language_tables(frame, config)
    run.results(results)
    return results


@torch.inference_mode()
def _segment_rows(prepared: LanguagePreparation, mean: nn.Module, number: int) -> Iterator[dict[str, Any]]:
    config, decoder, segment = prepared.config, prepared.decoder, prepared.segments[number]
    base, shape = decoder.base, config.shape
    caches, ids = _read(prepared, number)
    wrong = _wrong(prepared, number)
    wrong_caches, _ = _read(prepared, wrong) if prepared.nets else (caches, ids)
    last = len(ids) // shape.block_size - shape.blocks
    first = max(0, len(ids) // shape.block_size - config.segment_blocks - shape.distant_blocks)
    starts = (
        torch.linspace(first, last, config.windows, dtype=torch.float64)
        .round()
        .long()
        .unique()
        .to(ids.device)
    )
    rows, blocks = shape.rows(ids, starts), shape.gist_blocks(starts)
    targets = rows[:, shape.raw_tokens :]

    def score(hidden: Tensor) -> list[float]:
        logits = base.unembed(hidden)
        lost = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return lost.view(targets.shape).mean(dim=1).tolist()

    def plain(before: int) -> list[float]:
        more = shape.rows(ids, starts, before)
        return score(scored_hidden(base, caches, shape, starts, more))

    means = base.embed(ids.view(-1, shape.block_size)[blocks]).float().mean(dim=2)  # (B, G, E)
    found = {
        FULL: plain(shape.distant_blocks * shape.block_size),
        DROP: plain(shape.distant_blocks),
        NONE: plain(0),
        MEAN_EMBEDDING: score(scored_hidden(base, caches, shape, starts, rows, means)),
    }
    for name, net in {MEAN: mean, **prepared.nets}.items():
        gists = pooled_gists(net, base, caches, blocks)
        found[name] = score(scored_hidden(base, caches, shape, starts, rows, gists))
        if name.startswith("gist"):
            gists = pooled_gists(net, base, wrong_caches, blocks)
            found[f"wrong-{name}"] = score(scored_hidden(base, caches, shape, starts, rows, gists))
    for at, start in enumerate(starts.tolist()):
        yield {
            "genre": config.genre,
            "document": segment.name,
            "wrong_document": prepared.segments[wrong].name,
            "segment": number,
            "start_block": start,
        } | {arm: scores[at] for arm, scores in found.items()}


def _read(prepared: LanguagePreparation, number: int) -> tuple[SegmentCaches, Tensor]:
    """The segment of that number and those that its windows reach back to, each read by itself, one after the other."""
    decoder, reach = prepared.decoder, prepared.config.reach_segments
    pieces, caches = [], []
    for one in prepared.segments[number - reach + 1 : number + 1]:
        ids = torch.from_numpy(one.ids.astype(np.int64)).to(decoder.base.device)
        pieces.append(ids)
        caches.append(read_segment(decoder.base, ids, prepared.config.block_size, decoder.sink_id))
    blocks = CacheEntries(
        torch.cat([one.blocks.keys for one in caches], dim=1),
        torch.cat([one.blocks.values for one in caches], dim=1),
    )
    whole = SegmentCaches(blocks, caches[-1].sink, torch.cat([one.hidden for one in caches]))
    # A block stands where it stands in all that is read, not in its segment: keys are unrotated, so nothing is to do.
    return whole, torch.cat(pieces)


def _wrong(prepared: LanguagePreparation, number: int) -> int:
    """A segment of another document, another one for each."""
    own = prepared.segments[number].name
    others = [at for at in prepared.ends if prepared.segments[at].name != own]
    return others[prepared.ends.index(number) % len(others)]


def language_tables(frame: pl.DataFrame, config: LanguageConfig) -> dict[str, Any]:
    """Each arm's loss, its difference from `drop`, and the comparisons that gists are judged by.

    Differences are paired by window; standard errors are over segments' means.
    """
    arms = [name for name in frame.columns if frame[name].dtype == pl.Float64]
    by_segment = frame.group_by("segment", maintain_order=True).agg(pl.col(arms).mean())
    losses = {arm: by_segment[arm].to_numpy() for arm in arms}
    headroom = losses[DROP] - losses[FULL]

    def difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        gap = first - second
        error = float(gap.std(ddof=1) / np.sqrt(len(gap)))
        return {"mean": float(gap.mean()), "se": error, "z": float(gap.mean() / error) if error else 0.0}

    table = [
        {"arm": arm, "nats": float(losses[arm].mean()), **difference(losses[arm], losses[DROP])}
        for arm in arms
    ]
    compared = []
    for kind in ("gist", "constant"):
        names = [arm for arm in arms if arm.startswith(f"{kind}-")]
        groups = {name: losses[name] for name in names}
        if len(names) > 1:
            groups[f"{kind}, mean of {len(names)} seeds"] = np.mean([losses[name] for name in names], axis=0)
        for name, own in groups.items():
            row: dict[str, Any] = {
                "arm": name,
                "minus_drop": difference(own, losses[DROP]),
                "minus_mean_cache": difference(own, losses[MEAN]),
                "of_headroom": float((losses[DROP] - own).mean() / headroom.mean()),
            }
            if kind == "gist":
                wrong = [losses[f"wrong-{one}"] for one in ([name] if name in losses else names)]
                row["wrong_minus_right"] = difference(np.mean(wrong, axis=0), own)
            compared.append(row)
    return {
        "genre": config.genre,
        "windows": frame.height,
        "segments": by_segment.height,
        "gists_per_window": config.distant_blocks,
        "headroom": difference(losses[DROP], losses[FULL]),
        "readable": bool(headroom.mean() >= LEAST_HEADROOM),
        "arms": table,
        "compared": compared,
    }
