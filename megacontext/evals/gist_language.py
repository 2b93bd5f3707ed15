"""What cache gists are worth to a frozen decoder in plain language modelling, at equal positions.

A window is P distant nodes of K blocks, G distant blocks behind them, some raw tokens and then the tokens that are
scored, all of one document that nothing was trained on. Every arm predicts the same tokens. Those that have gists spend
P + G positions on the distant part; `drop` spends as many on more recent tokens; `none` spends them on nothing; `full`
reads the distant part as tokens. All arms have the same sink. Headroom is drop minus full: below a tenth of a nat there
is nothing to win, and figures are not to be read.

`wrong` arms are given gists of another document at the same places: wrong minus right is content, and not what any
trained entries give. `constant` is the control of that: one trained prefix for all texts. Where both levels stand in a
window, three arms ask what the far one gives: `near` spends its P positions on more recent tokens, `far-wrong` has the
far nodes of another document, `far-mean` has plain means of the blocks' trained gists for them.

Windows of one segment are no independent samples: intervals are over segments.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.corpus.documents import Document, cut_segments, load_documents
from megacontext.errors import ConfigError
from megacontext.evals.evaluation import write_frame
from megacontext.evals.language_tables import DROP, FULL, MEAN, language_tables
from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig
from megacontext.models.entries import CacheEntries
from megacontext.progress import Progress
from megacontext.runtime.bases import Precision
from megacontext.runtime.gist_windows import (
    WindowShape,
    constant_gists,
    in_time_order,
    parent_gists,
    picked_gists,
    scored_hidden,
)
from megacontext.runtime.pooled_gists import FrozenDecoder, load_pooled, open_decoder, pooled_folder
from megacontext.runtime.run import RunFolder
from megacontext.runtime.segment_gists import SegmentReader

NONE, MEAN_EMBEDDING = "none", "mean-embedding"
ARMS = (FULL, DROP, NONE, MEAN, MEAN_EMBEDDING, "gist", "wrong", "near", "far-wrong", "far-mean", "constant")
_BOTH_LEVELS, _ONE_LEVEL = {"near", "far-wrong", "far-mean"}, {MEAN_EMBEDDING}


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """What is measured."""

    gists: tuple[str, ...] = ("smollm2-pooled",)
    """Trained gists and constant prefixes, of any number of seeds: folders in data/, or paths of folders."""
    documents: tuple[str, ...] = ("pride-and-prejudice", "northanger-abbey")
    """Held-out documents, two at least: see `corpus.documents`."""
    genre: str = "prose"
    """What the documents are, for the tables."""
    arms: tuple[str, ...] | None = None
    """Kinds of arms, `drop` among them; None: all that the windows have. `full` costs most."""
    segments: int = 80
    """Segments that windows end in, spread evenly over the documents; fewer where there are fewer."""
    windows: int = 3
    """Windows that end in a segment, spread evenly over it."""
    reach_segments: int = 1
    """Segments of a document that a window may reach over, each read by itself: 2 for 4k tokens of history."""
    base: str = "smollm2"
    device: str = "cpu"
    precision: Precision | None = None
    """Of the decoder; None: what the device is quick in."""
    sink: str = "<|endoftext|>"
    block_size: int = 32
    segment_blocks: int = 64
    piece_blocks: int | None = None
    """Blocks of a segment that are read together for its gists, 1 for every block alone; None: the whole segment."""
    distant_blocks: int = 12
    """Blocks that are read as gists, right before the raw tokens."""
    distant_parents: int = 0
    """Nodes of `block_size` blocks, before them, that are read as gists of gists, each at a multiple of its size."""
    reach_tokens: int | None = None
    """How far before the raw tokens an entry may stand: what is farther is squeezed into it. None: as far as it is."""
    raw_tokens: int = 64
    scored_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        least = self.raw_tokens, self.scored_tokens, self.shape.gists, self.windows, self.reach_segments
        if self.segments < 2 or min(least) < 1 or min(self.distant_blocks, self.distant_parents) < 0:
            raise ConfigError(
                "a measurement of gists needs at least 2 segments and 1 distant block or parent, window, segment of "
                f"reach, raw and scored token, got {self.segments}, {self.distant_blocks} and {self.distant_parents}, "
                f"{self.windows}, {self.reach_segments}, {self.raw_tokens} and {self.scored_tokens}; raise them"
            )
        shape = self.shape
        reach = self.reach_segments * self.segment_blocks
        behind = shape.blocks - shape.far_blocks - self.distant_blocks
        if shape.blocks > reach or behind > self.segment_blocks:
            raise ConfigError(
                f"a window takes {shape.blocks} blocks, {behind} of them behind the gists, and must fit "
                f"{self.reach_segments} segments of {self.segment_blocks} blocks; raise one of the two"
            )
        if self.piece_blocks is not None and self.piece_blocks < 1:
            raise ConfigError(
                f"piece_blocks must be at least 1, got {self.piece_blocks}; 1 reads every block alone"
            )
        near = self.distant_blocks * self.block_size
        if self.reach_tokens is not None and self.reach_tokens <= near:
            raise ConfigError(
                f"reach_tokens must be beyond the {near} tokens of the distant blocks, which stay where they are, got "
                f"{self.reach_tokens}; raise it"
            )
        self._check_arms()
        _starts(self)

    def _check_arms(self) -> None:
        had = set(ARMS) - (_ONE_LEVEL if self.distant_parents else set())
        if not (self.distant_parents and self.distant_blocks):
            had -= _BOTH_LEVELS
        arms = [name for name in ARMS if name in had] if self.arms is None else list(self.arms)
        if DROP not in arms or (foreign := [name for name in arms if name not in had]):
            raise ConfigError(
                f"arms are {DROP}, against which all are held, and others of "
                f"{', '.join(name for name in ARMS if name in had)} in these windows, got {', '.join(arms)}"
                + (f"; leave {', '.join(foreign)} out" if DROP in arms else f"; add {DROP}")
            )

    def has(self, kind: str) -> bool:
        """Whether arms of that kind are measured."""
        if self.arms is not None:
            return kind in self.arms
        if kind in _BOTH_LEVELS:
            return bool(self.distant_parents and self.distant_blocks)
        return kind not in _ONE_LEVEL or not self.distant_parents

    @property
    def shape(self) -> WindowShape:
        """Of every window."""
        return WindowShape(
            block_size=self.block_size,
            distant_blocks=self.distant_blocks,
            distant_parents=self.distant_parents,
            reach_tokens=self.reach_tokens,
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
    reader: SegmentReader


def prepare_language(config: LanguageConfig, kept: Path | None = None) -> LanguagePreparation:
    """Open the decoder, the trained gists and the documents; what is made of segments is kept in the folder `kept`.

    Raises what opening them raises, ConfigError.
    """
    decoder = open_decoder(config.base, config.device, config.precision, config.sink)
    _check_window(config, decoder)
    nets: dict[str, nn.Module] = {}
    for folder in config.gists:
        net, description = load_pooled(pooled_folder(folder), decoder)
        if isinstance(net, PooledCache) and net.block_size != config.block_size:
            raise ConfigError(
                f"block_size must be that of the gists, those in {folder} stand for {net.block_size} tokens, got "
                f"{config.block_size}; change it"
            )
        if isinstance(net, PooledCache) and config.distant_parents and len(net.levels) < 2:
            raise ConfigError(
                f"gists of gists need a second level, those in {folder} have none; name gists that have one, as "
                "smollm2-pooled-lod2 has, or set distant_parents = 0"
            )
        if isinstance(net, ConstantPrefix) and net.keys.shape[1] < config.shape.gists:
            raise ConfigError(
                f"a window has {config.shape.gists} gists, the prefix in {folder} {net.keys.shape[1]}; train a longer "
                "one"
            )
        if both := sorted(_trained_on(description) & set(config.documents)):
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
    mean = PooledCache(
        PooledCacheConfig(hidden=0), entry_shape=decoder.base.entry_shape, block_size=config.block_size
    ).to(decoder.base.device)
    makers = {name: net for name, net in {MEAN: mean, **nets}.items() if isinstance(net, PooledCache)}
    # A window's own segments and those of the wrong one, while windows move on by one segment.
    reader = SegmentReader(
        decoder,
        makers,
        config.block_size,
        kept,
        recent=2 * reach + 2,
        piece_blocks=config.piece_blocks,
        with_hidden=False,
    )
    return LanguagePreparation(config, decoder, {MEAN: mean, **nets}, segments, ends, reader)


def _check_window(config: LanguageConfig, decoder: FrozenDecoder) -> None:
    window = getattr(decoder.base.config, "max_position_embeddings", None)
    needed = config.shape.distant_tokens + config.raw_tokens + config.scored_tokens + 1
    if config.has(FULL) and window is not None and needed > window:
        raise ConfigError(
            f"full attention is measured within the decoder's window of {window:,} tokens, got windows of {needed:,}; "
            "name --arms without full, or make them shorter"
        )


def _trained_on(description: dict[str, Any]) -> set[str]:
    """Documents that gists were trained on, and those that they went on from."""
    earlier = description.get("initial")
    own = set(description.get("recipe", {}).get("documents", []))
    return own | (_trained_on(earlier) if earlier else set())


def measure_language(prepared: LanguagePreparation, run: RunFolder) -> dict[str, Any]:
    """Score every window by every arm; rows go into the run as windows.parquet and line by line.

    Segments whose lines the run holds already are not scored again.
    """
    config = prepared.config
    rows = _scored_before(run.path / "answers.jsonl", len(_starts(config)))
    done = {row["segment"] for row in rows}
    with Progress(f"{config.genre}: segments", len(prepared.ends)) as progress:
        progress.advance(steps=len(done))
        for number in prepared.ends:
            if number in done:
                continue
            for row in _segment_rows(prepared, number):
                run.answer(row)
                rows.append(row)
            run.flush()
            progress.advance()
    frame = pl.DataFrame(rows)
    write_frame(run, "windows", frame)
    results = language_tables(frame, config)
    run.results(results)
    return results


def _scored_before(lines: Path, windows: int) -> list[dict[str, Any]]:
    """Rows of the segments of which all windows were written before the run was interrupted; other lines go."""
    rows: list[dict[str, Any]] = []
    for line in lines.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # the line that was being written
    counts = Counter(row["segment"] for row in rows)
    rows = [row for row in rows if counts[row["segment"]] == windows]
    # In place: the run holds the file open, at its end whatever that is.
    lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return rows


@torch.inference_mode()
def _segment_rows(prepared: LanguagePreparation, number: int) -> Iterator[dict[str, Any]]:
    config, segment, wrong = prepared.config, prepared.segments[number], _wrong(prepared, number)
    starts = _starts(config).to(prepared.decoder.base.device)
    windows = _Windows(prepared, number, starts)
    found = dict(windows.without_gists())
    other = _Windows(prepared, wrong, starts)
    for name, net in prepared.nets.items():
        found |= windows.with_gists(name, net, other)
    for at, start in enumerate(starts.tolist()):
        yield {
            "genre": config.genre,
            "document": segment.name,
            "wrong_document": prepared.segments[wrong].name,
            "segment": number,
            "start_block": start,
        } | {arm: scores[at] for arm, scores in found.items()}


def _starts(config: LanguageConfig) -> Tensor:
    """Blocks that windows begin at, in the segments that they reach over; their tokens end in the last of these.

    Raises ConfigError where there is none.
    """
    begins = config.shape.begins(config.reach_segments, config.segment_blocks)
    if not begins:
        raise ConfigError(
            f"windows of nodes begin at multiples of {begins.step} blocks, none of which lets them end in the last of "
            f"{config.reach_segments} segments; raise reach_segments"
        )
    spread = torch.linspace(
        begins[0] // begins.step, begins[-1] // begins.step, config.windows, dtype=torch.float64
    )
    return spread.round().long().unique() * begins.step


class _Windows:
    """The windows that end in one segment, and their gists by every net."""

    def __init__(self, prepared: LanguagePreparation, number: int, starts: Tensor):
        self.config, self.shape, self.starts = prepared.config, prepared.config.shape, starts
        self.base, self.reader = prepared.decoder.base, prepared.reader
        reach = self.config.reach_segments
        self.pieces = [
            torch.from_numpy(one.ids.astype(np.int64)).to(self.base.device)
            for one in prepared.segments[number - reach + 1 : number + 1]
        ]
        self.ids = torch.cat(self.pieces)
        self.rows = self.shape.rows(self.ids, starts)
        self._gists: dict[str, CacheEntries] = {}

    def without_gists(self) -> Iterator[tuple[str, list[float]]]:
        """Nats of the arms that read tokens, and means of input embeddings."""
        shape, has = self.shape, self.config.has
        for arm, before in ((FULL, shape.distant_tokens), (DROP, shape.gists), (NONE, 0)):
            if has(arm):
                yield arm, self._score(None, before)
        if has(MEAN_EMBEDDING):
            blocks = self.ids.view(-1, shape.block_size)[shape.gist_blocks(self.starts)]
            yield MEAN_EMBEDDING, self._score(self.base.embed(blocks).float().mean(dim=2))  # (B, G, E)

    def with_gists(self, name: str, net: nn.Module, other: _Windows) -> dict[str, list[float]]:
        """Nats of the arms of one net; `other` are windows of the wrong document."""
        has, shape = self.config.has, self.shape
        if isinstance(net, ConstantPrefix):
            prefix = constant_gists(net, len(self.starts), shape.gists)
            return {name: self._score(prefix)} if has("constant") else {}
        assert isinstance(net, PooledCache)
        if name == MEAN:
            return {name: self._score(in_time_order(self._levels(name, net)))} if has(MEAN) else {}
        found: dict[str, list[float]] = {}
        levels = self._levels(name, net)
        if has("gist"):
            found[name] = self._score(in_time_order(levels))
        if has("wrong"):
            found[f"wrong-{name}"] = self._score(in_time_order(other._levels(name, net)))
        if has("near"):
            found[f"near-{name}"] = self._score(levels[-1], shape.distant_parents)
        if has("far-wrong"):
            found[f"far-wrong-{name}"] = self._score(in_time_order([other._levels(name, net)[0], levels[-1]]))
        if has("far-mean"):
            means = self._entries(name)
            far = [one[:, shape.parent_blocks(self.starts)].mean(dim=3) for one in (means.keys, means.values)]
            found[f"far-mean-{name}"] = self._score(in_time_order([CacheEntries(*far), levels[-1]]))
        return found

    def _levels(self, name: str, net: PooledCache) -> list[CacheEntries]:
        """Gists of gists and gists of blocks, (L, B, P, Hkv, D) and (L, B, G, Hkv, D), whichever there are."""
        shape, gists = self.shape, self._entries(name)
        levels = []
        if shape.distant_parents:
            levels.append(parent_gists(net, self.base, gists, shape.parent_blocks(self.starts)))
        if shape.distant_blocks:
            levels.append(picked_gists(gists, shape.gist_blocks(self.starts)))
        return levels

    def _entries(self, name: str) -> CacheEntries:
        """Gists (L, N, Hkv, D) of the blocks of all segments, as far as distant ones are among them.

        The rest is not read: what a block's gist is does not depend on the blocks behind it.
        """
        if name not in self._gists:
            shape = self.shape
            tokens = (int(self.starts.max()) + shape.far_blocks + shape.distant_blocks) * shape.block_size
            wanted = [
                piece[: tokens - before]
                for piece, before in zip(self.pieces, itertools.count(0, len(self.pieces[0])), strict=False)
                if before < tokens
            ]
            read = [self.reader.read(piece).gists[name] for piece in wanted]
            self._gists[name] = CacheEntries(
                torch.cat([one.keys for one in read], dim=1), torch.cat([one.values for one in read], dim=1)
            )
        return self._gists[name]

    def _score(self, gists: CacheEntries | Tensor | None, before: int = 0) -> list[float]:
        """Mean nats a scored token of each window, behind gists and `before` more recent tokens."""
        shape, base = self.shape, self.base
        rows = shape.rows(self.ids, self.starts, before) if before else self.rows
        hidden = scored_hidden(base, self.reader.sink, shape, self.starts, rows, gists)
        targets = self.rows[:, shape.raw_tokens :]
        lost = F.cross_entropy(base.unembed(hidden).flatten(0, 1), targets.flatten(), reduction="none")
        return lost.view(targets.shape).mean(dim=1).tolist()


def _wrong(prepared: LanguagePreparation, number: int) -> int:
    """A segment of another document, another one for each."""
    own = prepared.segments[number].name
    others = [at for at in prepared.ends if prepared.segments[at].name != own]
    return others[prepared.ends.index(number) % len(others)]
