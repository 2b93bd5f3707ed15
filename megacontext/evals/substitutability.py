"""Substitutability: which single spans a gist can stand for, and how different the gists of different spans are.

A span in the midst of plain tokens is folded and nothing else changed: tokens before it, the gist or what else stands
in its place, 64 raw tokens, the tokens that are scored. A span is substitutable if it then costs less than one nat, a
token (the definition of the notebooks) and, stricter, over the whole horizon. Leaving the span out altogether stands
beside it, and a gist of another document: where those do as well, the share says that the span does not matter, and
nothing of gists.

Diversity is of the gists alone: the mean cosine of two of them, of one document and of two, and the effective rank (the
exponential of the entropy of the spectrum of their covariance: Roy & Vetterli 2007), beside those of the mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.corpus.documents import Document
from megacontext.errors import ConfigError
from megacontext.evals.clustered import clustered_mean, with_error
from megacontext.evals.delta_nll import LEAST_RAW, mean_net
from megacontext.evals.evaluation import write_frame
from megacontext.evals.language_windows import (
    CODE,
    PROSE,
    Genre,
    Window,
    batches,
    check_held_out,
    cut_windows,
    load_genre,
    load_models,
)
from megacontext.evals.statistics import wilson
from megacontext.gistnet.gist import GistNet
from megacontext.models.positions import entry_positions
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.embedding_windows import (
    EmbeddingWindow,
    hidden_behind,
    make_gists,
    predicting,
    scored,
)
from megacontext.runtime.run import RunFolder

SUBSTITUTABLE = 1.0
"""Nats."""
IN_PLACE = ("gist", "mean", "wrong", "nothing")


@dataclass(frozen=True, kw_only=True)
class SubstitutabilityConfig:
    """What is measured."""

    suite: Literal["substitutability"] = "substitutability"
    models: tuple[str, ...] = ("tiny",)
    """Folders in data/, or paths of folders."""
    genres: tuple[Genre, ...] = (PROSE, CODE)
    lods: tuple[int, ...] = (1, 2)
    before_tokens: int = 128
    """Plain tokens before the span."""
    raw_tokens: int = LEAST_RAW
    horizon: int = 32
    """Scored tokens."""
    n: int = 60
    """Spans of each genre and level. A claim needs 200."""
    seed: int = 0
    """Draws the spans that wrong gists come from."""
    batch: int = 8

    def __post_init__(self) -> None:
        if not self.genres or not self.lods or set(self.lods) - {1, 2}:
            raise ConfigError(
                f"a measurement needs genres and lods of 1 and 2, got {len(self.genres)} and {list(self.lods)}; "
                f"change them"
            )
        if min(self.horizon, self.n, self.batch) < 1 or self.before_tokens < 0 or self.raw_tokens < LEAST_RAW:
            raise ConfigError(
                f"horizon, n and batch must be at least 1, before_tokens 0 and raw_tokens {LEAST_RAW}, got "
                f"{self.horizon}, "
                f"{self.n}, {self.batch}, {self.before_tokens} and {self.raw_tokens}; raise what is less"
            )
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")


@dataclass(frozen=True)
class SpanCell:
    """Spans of one genre and level. The window is without what stands before the span."""

    genre: str
    lod: int
    window: EmbeddingWindow
    windows: list[Window]

    @property
    def name(self) -> str:
        return f"{self.genre} LOD{self.lod}"


@dataclass(frozen=True)
class SpanPreparation:
    """All that is read, loaded and cut before anything is written."""

    config: SubstitutabilityConfig
    models: dict[str, Bundle]
    cells: list[SpanCell]


def prepare_substitutability(config: SubstitutabilityConfig) -> SpanPreparation:
    """Load the models and cut the spans. Raises CheckpointError, ConfigError."""
    models = load_models(config.models)
    check_held_out(config.models, config.genres)
    first = next(iter(models.values()))
    cells = []
    for genre in config.genres:
        measured: list[Document]
        measured, pool = load_genre(genre, first)
        for lod in config.lods:
            window = EmbeddingWindow(
                block_size=first.config.block_size,
                blocks=int(lod == 1),
                coarse=int(lod == 2),
                raw_tokens=config.raw_tokens,
                scored_tokens=config.horizon,
            )
            tokens = config.before_tokens + window.tokens
            # Spans that overlap are no two spans: their windows lie at least a span apart.
            step = max(config.horizon, window.distant_tokens if lod == 1 else window.distant_tokens // 4)
            cut = cut_windows(genre.name, measured, pool, tokens, step, config.n, config.seed)
            cells.append(SpanCell(genre.name, lod, window, cut))
    return SpanPreparation(config, models, cells)


def run_substitutability(prepared: SpanPreparation, run: RunFolder) -> dict[str, Any]:
    """Fold every span of every cell by every model, into `run`; returns what results.json says."""
    config = prepared.config
    run.note(
        model_fingerprints={name: bundle.fingerprint() for name, bundle in prepared.models.items()},
        book={"title": ", ".join(one for genre in config.genres for one in genre.measured)},
    )
    rows: list[dict[str, Any]] = []
    variety: list[dict[str, Any]] = []
    for name, bundle in prepared.models.items():
        with Progress(f"{name}: spans", sum(len(cell.windows) for cell in prepared.cells)) as progress:
            for cell in prepared.cells:
                made: dict[str, list[Tensor]] = {"gist": [], "mean": []}
                documents: list[str] = []
                for part in batches(cell.windows, config.batch):
                    for row in _fold(name, bundle, cell, part, config.before_tokens, made):
                        run.answer(row)
                        rows.append(row)
                    documents += [one.document for one in part]
                    progress.advance(cell.name, len(part))
                owners = np.array(documents)
                for kind, vectors in made.items():
                    variety.append(
                        {"cell": cell.name, "model": name, "vectors": kind}
                        | diversity(torch.cat(vectors).numpy(), owners)
                    )
    frame = pl.DataFrame(rows)
    write_frame(run, "spans", frame)
    results = substitutability_results(frame, variety)
    run.results(results)
    return results


@torch.inference_mode()
def _fold(
    name: str,
    bundle: Bundle,
    cell: SpanCell,
    windows: list[Window],
    before: int,
    made: dict[str, list[Tensor]],
) -> Iterator[dict[str, Any]]:
    base, policy, window = bundle.base, bundle.config.positions, cell.window
    ids, wrong = (
        torch.from_numpy(np.stack(one)) for one in zip(*((w.ids, w.wrong) for w in windows), strict=True)
    )
    targets = scored(ids, window)

    def lost(hidden: Tensor) -> Tensor:
        logits = base.unembed(predicting(hidden, window))
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return nats.view(targets.shape).mean(dim=1)

    def vectors(net: GistNet, source: Tensor) -> Tensor:
        return make_gists(net, base, window, source[:, before:])

    def plain(seen: Tensor) -> Tensor:
        places = np.arange(seen.shape[1])
        positions = torch.from_numpy(entry_positions(places, places + 1, policy))[None]
        return lost(base(base.embed(seen), positions, ids=seen))

    gists, means = vectors(bundle.gistnet, ids), vectors(mean_net(bundle), ids)
    for kind, one in (("gist", gists), ("mean", means)):
        made[kind].append(one.flatten(1))
    left, rest = ids[:, :before], ids[:, before:]
    found = {
        "plain": plain(ids),
        "nothing": plain(torch.cat((left, rest[:, window.distant_tokens :]), dim=1)),
        **{
            kind: lost(hidden_behind(base, window, policy, one, rest, left=left))
            for kind, one in (("gist", gists), ("mean", means), ("wrong", vectors(bundle.gistnet, wrong)))
        },
    }
    for at, one in enumerate(windows):
        yield {
            "cell": cell.name,
            "genre": cell.genre,
            "lod": cell.lod,
            "model": name,
            "horizon": window.scored_tokens,
            "document": one.document,
            "segment": one.segment,
            "start": one.start + before,
            "wrong_document": one.wrong_document,
        } | {kind: float(nats[at]) for kind, nats in found.items()}


def diversity(vectors: np.ndarray, owners: np.ndarray) -> dict[str, float | None]:
    """How different vectors (N, E) are, each of the document that `owners` (N,) names.

    Mean cosine of two of one document, and of two documents; None where there are no such pairs. Effective rank of
    their covariance, of at most N - 1 or E.
    """
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units.T
    same = owners[:, None] == owners
    upper = np.triu(np.ones_like(same), k=1).astype(bool)

    def mean_of(pairs: np.ndarray) -> float | None:
        return float(cosines[pairs].mean()) if pairs.any() else None

    spectrum = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    shares = spectrum[spectrum > 0] / spectrum.sum() if spectrum.sum() > 0 else np.ones(1)
    return {
        "cosine": mean_of(upper),
        "cosine_within": mean_of(upper & same),
        "cosine_across": mean_of(upper & ~same),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "most": float(min(len(vectors) - 1, vectors.shape[1])),
    }


def substitutability_results(frame: pl.DataFrame, variety: list[dict[str, Any]]) -> dict[str, Any]:
    """What results.json says of rows with nats a token of each kind, and of the vectors."""
    cells = []
    for name in frame["cell"].unique(maintain_order=True):
        for model in frame["model"].unique(maintain_order=True):
            part = frame.filter((pl.col("cell") == name) & (pl.col("model") == model))
            horizon, segments = part["horizon"][0], part["segment"].to_numpy()
            for kind in IN_PLACE:
                delta = (part[kind] - part["plain"]).to_numpy()
                mean = clustered_mean(delta, segments)
                under, wholly = (
                    int((delta < SUBSTITUTABLE).sum()),
                    int((delta * horizon < SUBSTITUTABLE).sum()),
                )
                cells.append(
                    {"cell": name, "model": model, "in_place": kind, "horizon": horizon, "spans": part.height}
                    | {"delta": mean.numbers(), "perplexity_ratio": float(np.exp(mean.mean))}
                    | {
                        "substitutable": under / len(delta),
                        "substitutable_interval": wilson(under, len(delta)),
                    }
                    | {"wholly": wholly / len(delta), "wholly_interval": wilson(wholly, len(delta))}
                )
    return {
        "cells": cells,
        "diversity": variety,
        "sentences": [_sentence(cells, at) for at in range(0, len(cells), len(IN_PLACE))],
        "tables": [_spans_table(cells), _diversity_table(variety)],
    }


def _sentence(cells: list[dict[str, Any]], at: int) -> str:
    gist, *_, nothing = cells[at : at + len(IN_PLACE)]
    return (
        f"{gist['cell']}, {gist['model']}: {gist['substitutable']:.1%} of {gist['spans']} spans cost less than a "
        f"nat a token "
        f"as a gist, {nothing['substitutable']:.1%} when left out; over all {gist['horizon']} tokens "
        f"{gist['wholly']:.1%} "
        f"and {nothing['wholly']:.1%}."
    )


def _spans_table(cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "title": "Spans by what stands in their place",
        "note": "Delta: nats a token more than behind the span's own tokens, ± standard error over segments. "
        "Share under a nat a token, and under a nat over the whole horizon, with Wilson's 95 % intervals.",
        "columns": ["cell", "model", "in its place", "n", "delta", "perplexity ratio", "< 1 nat a token", "95 %",
                    "< 1 nat in all", "95 %"],
        "rows": [
            [row["cell"], row["model"], row["in_place"], str(row["spans"]),
             with_error(row["delta"]),
             f"{row['perplexity_ratio']:.3f}", f"{row['substitutable']:.3f}", _range(row["substitutable_interval"]),
             f"{row['wholly']:.3f}", _range(row["wholly_interval"])]
            for row in cells
        ],
    }  # fmt: skip


def _diversity_table(variety: list[dict[str, Any]]) -> dict[str, Any]:
    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    return {
        "title": "Diversity of the vectors",
        "note": "Mean cosine of two vectors, of all, of one document, of two documents; effective rank, and the "
        "most it could be.",
        "columns": ["cell", "model", "vectors", "cosine", "within", "across", "effective rank", "of at most"],
        "rows": [
            [row["cell"], row["model"], row["vectors"], shown(row["cosine"]), shown(row["cosine_within"]),
             shown(row["cosine_across"]), f"{row['effective_rank']:.1f}", f"{row['most']:.0f}"]
            for row in variety
        ],
    }  # fmt: skip


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f}-{interval[1]:.3f}"
