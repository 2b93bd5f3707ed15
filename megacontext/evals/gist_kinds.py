"""The kinds of gists side by side on one base: what each costs, and what it is worth at equal positions.

A window is G distant blocks, raw tokens and the tokens that are scored. The distant part is read as its tokens
(`full`), as gists of each kind that the bundle can make (`embedding`: GistNet's vectors; `tokens`: entries of gist
tokens; both also as the means of what they are made of, which nobody trained), as gists of another document (`wrong`),
as many recent tokens as there are gists (`drop`), or not at all (`none`). All arms with gists spend G positions on it.

Two texts are scored: the one that is there, and one of the distant blocks said again, word for word. In the second
there is much to win, whatever the base has learnt of books; it says what of a block comes through its gist. At least
64 raw tokens stand before what is scored, and where drop minus full is below a tenth of a nat nothing is to be read.

Differences are paired by window, errors are over segments (`evals.clustered`). Times are of one look at a machine that
may have other work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.evals.clustered import clustered_mean, with_error
from megacontext.evals.delta_nll import LEAST_RAW, mean_net
from megacontext.evals.delta_tables import LEAST_HEADROOM
from megacontext.evals.evaluation import write_frame
from megacontext.evals.language_windows import (
    PROSE,
    Genre,
    Window,
    batches,
    check_held_out,
    cut_windows,
    load_genre,
    load_models,
)
from megacontext.gistnet.gist import GistNet
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig
from megacontext.models.base import NO_TOKEN
from megacontext.models.entries import CacheEntries, entry_width, take_entries
from megacontext.models.gist_tokens import read_with_gists
from megacontext.models.positions import entry_positions
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.embedding_windows import (
    EmbeddingWindow,
    hidden_behind,
    hidden_plain,
    make_gists,
    predicting,
    scored,
)
from megacontext.runtime.run import RunFolder

TEXT, AGAIN = "text", "said again"
_TIMED_BLOCKS = 512


@dataclass(frozen=True, kw_only=True)
class GistKindsConfig:
    """What is measured."""

    suite: Literal["gist-kinds"] = "gist-kinds"
    models: tuple[str, ...] = ("tiny",)
    """Folders in data/, or paths of folders."""
    genres: tuple[Genre, ...] = (PROSE,)
    blocks: int = 12
    """Distant blocks, one gist each."""
    raw_tokens: int = 64
    n: int = 60
    """Windows of a text. A claim needs 200."""
    seed: int = 0
    """Draws the windows of wrong gists, and which block is said again."""
    batch: int = 8

    def __post_init__(self) -> None:
        if not self.genres or min(self.blocks, self.n, self.batch) < 1 or self.raw_tokens < LEAST_RAW:
            raise ConfigError(
                f"a measurement needs a genre, a block, a window and {LEAST_RAW} raw tokens at least, got "
                f"{len(self.genres)}, {self.blocks}, {self.n} and {self.raw_tokens}; raise what is too small"
            )
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")

    def window(self, block_size: int) -> EmbeddingWindow:
        """Scored is as much as a block has, in both texts."""
        return EmbeddingWindow(
            block_size=block_size,
            blocks=self.blocks,
            raw_tokens=self.raw_tokens,
            scored_tokens=block_size,
        )


@dataclass(frozen=True)
class KindsPreparation:
    """All that is read, loaded and cut before anything is written."""

    config: GistKindsConfig
    models: dict[str, Bundle]
    windows: dict[str, list[Window]]
    """By genre."""


def prepare_kinds(config: GistKindsConfig) -> KindsPreparation:
    """Load the models and cut the windows. Raises CheckpointError, ConfigError."""
    models = load_models(config.models)
    check_held_out(config.models, config.genres)
    first = next(iter(models.values()))
    shape, windows = config.window(first.config.block_size), {}
    for genre in config.genres:
        measured, pool = load_genre(genre, first)
        windows[genre.name] = cut_windows(
            genre.name, measured, pool, shape.tokens, shape.scored_tokens, config.n, config.seed
        )
    return KindsPreparation(config, models, windows)


def run_kinds(prepared: KindsPreparation, run: RunFolder) -> dict[str, Any]:
    """Time every kind, score every window by every arm, into `run`; returns what results.json says."""
    config, rows, costs = prepared.config, [], []
    run.note(model_fingerprints={name: bundle.fingerprint() for name, bundle in prepared.models.items()})
    for name, bundle in prepared.models.items():
        shape = config.window(bundle.config.block_size)
        costs += [{"model": name} | row for row in kind_costs(bundle)]
        for genre, windows in prepared.windows.items():
            with Progress(f"{name}, {genre}: windows", len(windows)) as progress:
                for part in batches(windows, config.batch):
                    for row in _rows(bundle, shape, part, config.seed):
                        row = {"model": name, "genre": genre} | row
                        run.answer(row)
                        rows.append(row)
                    progress.advance(None, len(part))
    frame = pl.DataFrame(rows, infer_schema_length=None)
    write_frame(run, "windows", frame)
    results = kinds_results(frame, costs)
    run.results(results)
    return results


@torch.inference_mode()
def _rows(
    bundle: Bundle, shape: EmbeddingWindow, windows: list[Window], seed: int
) -> Iterator[dict[str, Any]]:
    ids = torch.from_numpy(np.stack([one.ids for one in windows]))
    wrong = torch.from_numpy(np.stack([one.wrong for one in windows]))
    again, size = ids.clone(), shape.block_size
    for row, window in zip(again, windows, strict=True):
        block = int(np.random.default_rng((seed, window.start)).integers(shape.blocks))
        row[-size:] = row[block * size : (block + 1) * size]
    for text, rows in ((TEXT, ids), (AGAIN, again)):
        nats = kinds_nats(bundle, shape, rows, wrong)
        for at, window in enumerate(windows):
            yield {"text": text, "segment": window.segment, "start": window.start} | {
                arm: float(lost[at].mean()) for arm, lost in nats.items()
            }


def kinds_nats(bundle: Bundle, shape: EmbeddingWindow, ids: Tensor, wrong: Tensor) -> dict[str, Tensor]:
    """Nats (B, scored) of the scored tokens of windows `ids` (B, tokens) behind every arm, by its name."""
    base, policy = bundle.base, bundle.config.positions
    targets = scored(ids, shape)

    def lost(hidden: Tensor) -> Tensor:
        logits = base.unembed(predicting(hidden, shape))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def embedded(net: GistNet, source: Tensor) -> Tensor:
        return lost(hidden_behind(base, shape, policy, make_gists(net, base, shape, source), ids))

    def cached(make: Callable[[Bundle, Tensor], CacheEntries], source: Tensor) -> Tensor:
        gists = make(bundle, _with_left(bundle, source[:, : shape.distant_tokens], shape.block_size))
        return lost(_hidden_behind_entries(bundle, shape, gists, ids))

    found = {
        "full": lost(hidden_plain(base, shape, policy, ids, shape.distant_tokens)),
        "drop": lost(hidden_plain(base, shape, policy, ids, shape.gists)),
        "none": lost(hidden_plain(base, shape, policy, ids, 0)),
        "embedding": embedded(bundle.gistnet, ids),
        "wrong embedding": embedded(bundle.gistnet, wrong),
        "mean embedding": embedded(mean_net(bundle), ids),
        "mean cache": cached(_mean_caches, ids),
    }
    if bundle.gist_tokens is not None:
        found |= {"tokens": cached(_token_entries, ids), "wrong tokens": cached(_token_entries, wrong)}
    return found


def _with_left(bundle: Bundle, distant: Tensor, size: int) -> Tensor:
    """Blocks (B * G, left + K) of distant tokens (B, G * K), with what stands before each in its window."""
    left = bundle.config.gist_tokens.left_tokens if bundle.gist_tokens is not None else 0
    padded = torch.cat((distant.new_full((len(distant), left), NO_TOKEN), distant), dim=1)
    return padded.unfold(1, left + size, size).flatten(0, 1)


def _token_entries(bundle: Bundle, blocks: Tensor) -> CacheEntries:
    assert bundle.gist_tokens is not None
    return bundle.gist_tokens.of_blocks(bundle.base, blocks)


def _mean_caches(bundle: Bundle, blocks: Tensor) -> CacheEntries:
    """Means of the keys and values of each block, read by itself: pooled caches as they are before training."""
    base, size = bundle.base, bundle.config.block_size
    rows = blocks[:, -size:]
    cache, where = base.reserve(len(rows), size), torch.arange(size, dtype=torch.float64)[None]
    base(base.embed(rows), where, ids=rows, cache=cache)
    entries = take_entries(base, cache, 0, size, where)
    net = PooledCache(PooledCacheConfig(hidden=0), entry_shape=base.entry_shape, block_size=size)
    keys, values = net(entries.keys, entries.values, base.turn)  # (L, N, K, Hkv, D) -> (L, N, Hkv, D)
    return CacheEntries(keys[:, :, None], values[:, :, None])


def _hidden_behind_entries(
    bundle: Bundle, shape: EmbeddingWindow, gists: CacheEntries, ids: Tensor
) -> Tensor:
    """Hidden states (B, G + raw + scored, E) of windows with entries (L, B * G, 1, Hkv, D) for the distant part."""
    near = ids[:, shape.distant_tokens :]
    tokens = torch.cat((near.new_full((len(ids), shape.gists), NO_TOKEN), near), dim=1)
    starts, stops = shape.span_bounds()
    places = np.arange(shape.distant_tokens, shape.tokens)
    positions = entry_positions(
        np.concatenate((starts, places)), np.concatenate((stops, places + 1)), bundle.config.positions
    )
    rows = torch.arange(len(ids)).repeat_interleave(shape.gists)
    columns = torch.arange(shape.gists).repeat(len(ids))
    return read_with_gists(bundle.base, tokens, torch.from_numpy(positions)[None], gists, (rows, columns))


@torch.inference_mode()
def kind_costs(bundle: Bundle) -> list[dict[str, Any]]:
    """Numbers of a gist, bytes that a tree keeps of it for a token of history, tokens/s to make it."""
    size, base = bundle.config.block_size, bundle.base
    rng = np.random.default_rng(0)
    blocks = torch.from_numpy(rng.integers(0, base.vocab_size, (_TIMED_BLOCKS, size)))
    kinds: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
        "embedding": (base.width, lambda rows: bundle.gistnet.gists(base.embed(rows), 1)),
        "mean cache": (entry_width(base), lambda rows: _mean_caches(bundle, rows)),
    }
    if bundle.gist_tokens is not None:
        left = bundle.config.gist_tokens.left_tokens
        before = blocks.new_full((_TIMED_BLOCKS, left), 1)
        kinds["tokens"] = (
            entry_width(base),
            lambda rows: _token_entries(bundle, torch.cat((before[: len(rows)], rows), dim=1)),
        )
    told = []
    for kind, (numbers, make) in kinds.items():
        make(blocks[:64])
        began = time.perf_counter()
        for part in blocks.split(64):
            make(part)
        seconds = time.perf_counter() - began
        told.append(
            {
                "kind": kind,
                "numbers": numbers,
                "bytes_per_token": 2 * numbers / (size - 1),
                "tokens_per_s": _TIMED_BLOCKS * size / seconds,
            }
        )
    return told


def kinds_results(frame: pl.DataFrame, costs: list[dict[str, Any]]) -> dict[str, Any]:
    """What results.json says of rows with model, genre, text, segment and a column for each arm."""
    arms = [name for name in frame.columns if frame[name].dtype == pl.Float64]
    cells = []
    for (model, genre, text), part in frame.group_by(["model", "genre", "text"], maintain_order=True):
        segments = part["segment"].to_numpy()
        nats = {arm: part[arm].to_numpy() for arm in arms if part[arm].null_count() < part.height}

        def difference(
            first: str, second: str, nats: dict[str, np.ndarray] = nats, segments: np.ndarray = segments
        ) -> dict[str, Any]:
            return clustered_mean(nats[first] - nats[second], segments).numbers()

        headroom = difference("drop", "full")
        cells.append(
            {
                "model": model,
                "genre": genre,
                "text": text,
                "windows": part.height,
                "segments": len(np.unique(segments)),
                "headroom": headroom,
                "readable": headroom["mean"] >= LEAST_HEADROOM,
                "arms": {
                    arm: {"nats": float(lost.mean()), "minus_drop": difference(arm, "drop")}
                    for arm, lost in nats.items()
                },
                "wrong_minus_right": {
                    kind: difference(f"wrong {kind}", kind)
                    for kind in ("embedding", "tokens")
                    if kind in nats
                },
            }
        )
    return {
        "cells": cells,
        "costs": costs,
        "sentences": [_sentence(cell) for cell in cells],
        "tables": [_cost_table(costs), _arm_table(cells)],
    }


def _cost_table(costs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "title": "What a kind of gist costs",
        "note": "Bytes in halves, all levels together, without addresses. Every gist takes one position of a context.",
        "columns": ["model", "kind", "numbers a gist", "bytes a token", "made, tokens/s"],
        "rows": [
            [
                row["model"],
                row["kind"],
                str(row["numbers"]),
                f"{row['bytes_per_token']:.1f}",
                f"{row['tokens_per_s']:,.0f}",
            ]
            for row in costs
        ],
    }


def _arm_table(cells: list[dict[str, Any]]) -> dict[str, Any]:
    rows = []
    for cell in cells:
        for arm, lost in cell["arms"].items():
            gap = lost["minus_drop"]
            shown = "" if arm == "drop" else with_error(gap, digits=4)
            rows.append(
                [
                    cell["model"],
                    f"{cell['genre']}, {cell['text']}",
                    arm,
                    str(cell["windows"]),
                    f"{lost['nats']:.4f}",
                    shown,
                ]
            )
    return {
        "title": "What it is worth, at equal positions",
        "note": f"Nats a token. Below a headroom (drop minus full) of {LEAST_HEADROOM} nothing is to be read.",
        "columns": ["model", "text", "arm", "n", "nats", "minus drop"],
        "rows": rows,
    }


def _sentence(cell: dict[str, Any]) -> str:
    said = f"{cell['model']}, {cell['genre']}, {cell['text']}: headroom {cell['headroom']['mean']:+.3f} nats"
    if not cell["readable"]:
        return f"{said}: too little for any figure of gists to be read."
    wrong = ", ".join(
        f"{kind} {gap['mean']:+.3f} (z {gap['z']:.1f})" for kind, gap in cell["wrong_minus_right"].items()
    )
    return f"{said}; wrong minus right: {wrong}."
