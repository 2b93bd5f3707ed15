"""Delta-NLL: what it costs, in nats a token, that a distant span is read as gists and not as its tokens.

The next H true tokens are predicted behind seven contexts that differ in the distant part alone: its tokens (`full`),
the model's gists, the mean of its embeddings, gists of another document (`wrong`) and of a far place of the same
document (`elsewhere`), as many recent tokens as there are gists (`drop`), and nothing (`none`). Delta-NLL is an arm
minus `full`. At equal positions is an arm minus `drop`. Headroom is drop minus full: below a tenth of a nat nothing
can be won, and the figures of that cell are not to be read.

At least 64 raw tokens stand between the span and the first scored token, so that no gain comes from the words next
door. Cells are a genre, a level of gists and a distance; a gist of k slots costs k positions, and its `drop` has k
tokens too. In the genre `facts` only the answers to questions about planted facts are scored
(`runtime.planted_windows`). Differences are paired by window; standard errors are over segments
(`evals.language_windows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.corpus.documents import Document
from megacontext.errors import ConfigError
from megacontext.evals.delta_tables import delta_results
from megacontext.evals.evaluation import write_frame
from megacontext.evals.language_windows import (
    CODE,
    FACTS,
    PROSE,
    Genre,
    Window,
    batches,
    check_held_out,
    cut_windows,
    load_genre,
    load_models,
    planted_windows,
)
from megacontext.gistnet.gist import GistNet, GistNetConfig
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
from megacontext.runtime.planted_windows import PlantedConfig
from megacontext.runtime.run import RunFolder

LEAST_RAW = 64
"""Raw tokens before the first scored one, in every arm."""


@dataclass(frozen=True, kw_only=True)
class DeltaNllConfig:
    """What is measured."""

    suite: Literal["delta-nll"] = "delta-nll"
    models: tuple[str, ...] = ("tiny",)
    """Folders in data/, or paths of folders: several seeds of one recipe, or several kinds of gists."""
    genres: tuple[Genre, ...] = (PROSE, CODE, FACTS)
    lods: tuple[int, ...] = (1, 2)
    blocks: int = 12
    """Gists of a span at LOD1."""
    planted_blocks: int = 8
    """The same where facts are planted."""
    planted: PlantedConfig = field(default_factory=PlantedConfig)
    coarse: int = 1
    """Gists of a span at LOD2."""
    distances: tuple[int, ...] = (64, 256)
    """Raw tokens between the span and what is scored."""
    horizons: tuple[int, ...] = (32, 64, 128)
    """Scored tokens."""
    n: int = 60
    """Windows of a cell. A claim needs 200."""
    seed: int = 0
    """Draws the windows that wrong gists come from."""
    batch: int = 8

    def __post_init__(self) -> None:
        if not self.genres or not self.lods or not self.distances or not self.horizons:
            raise ConfigError(
                "a measurement needs a genre, a level, a distance and a horizon at least; name them"
            )
        if set(self.lods) - {1, 2} or min(self.blocks, self.coarse, self.n, self.batch, *self.horizons) < 1:
            raise ConfigError(
                "lods are 1 and 2, and blocks, coarse, horizons, n and batch at least 1, got "
                f"{list(self.lods)}, {self.blocks}, {self.coarse}, {list(self.horizons)}, {self.n} and {self.batch}; "
                "change what does not fit"
            )
        if min(self.distances) < LEAST_RAW:
            raise ConfigError(
                f"scored tokens need {LEAST_RAW} raw tokens before them, got distances {list(self.distances)}; "
                f"raise them"
            )
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")

    def cells(self, block_size: int) -> list[Cell]:
        """Genre by level by distance. Facts stand in blocks, so their level is 1."""
        return [
            Cell(
                genre,
                lod,
                EmbeddingWindow(
                    block_size=block_size,
                    blocks=(self.planted_blocks if genre.planted else self.blocks) if lod == 1 else 0,
                    coarse=self.coarse if lod == 2 else 0,
                    raw_tokens=distance,
                    scored_tokens=max(self.horizons),
                ),
            )
            for genre in self.genres
            for lod in self.lods
            for distance in self.distances
            if lod == 1 or not genre.planted
        ]


@dataclass(frozen=True)
class Cell:
    """One genre, level and distance."""

    genre: Genre
    lod: int
    window: EmbeddingWindow

    @property
    def name(self) -> str:
        return f"{self.genre.name} LOD{self.lod} at {self.window.raw_tokens}"


@dataclass(frozen=True)
class DeltaPreparation:
    """All that is read, loaded and cut before anything is written."""

    config: DeltaNllConfig
    models: dict[str, Bundle]
    cells: list[tuple[Cell, list[Window]]]


def prepare_delta(config: DeltaNllConfig) -> DeltaPreparation:
    """Load the models and cut the windows. Raises CheckpointError, ConfigError."""
    models = load_models(config.models)
    check_held_out(config.models, config.genres)
    first = next(iter(models.values()))
    texts: dict[str, tuple[list[Document], list[Document]]] = {}
    cells = []
    with Progress("cutting windows", len(config.cells(first.config.block_size))) as progress:
        for cell in config.cells(first.config.block_size):
            name = cell.genre.name
            texts[name] = texts.get(name) or load_genre(cell.genre, first)
            measured, pool = texts[name]
            if cell.genre.planted:
                tokenizer = first.tokenizer
                cut = planted_windows(cell.window, measured, tokenizer, config.planted, config.n, config.seed)
            else:
                tokens, last = cell.window.tokens, cell.window.scored_tokens
                cut = cut_windows(name, measured, pool, tokens, last, config.n, config.seed)
            cells.append((cell, cut))
            progress.advance(cell.name)
    return DeltaPreparation(config, models, cells)


def run_delta(prepared: DeltaPreparation, run: RunFolder) -> dict[str, Any]:
    """Score every window by every arm of every model, into `run`; returns what results.json says."""
    config = prepared.config
    run.note(
        model_fingerprints={name: bundle.fingerprint() for name, bundle in prepared.models.items()},
        book={"title": ", ".join(one for genre in config.genres for one in genre.measured)},
    )
    rows: list[dict[str, Any]] = []
    for name, bundle in prepared.models.items():
        total = sum(len(windows) for _, windows in prepared.cells)
        with Progress(f"{name}: windows", total) as progress:
            for cell, windows in prepared.cells:
                for part in batches(windows, config.batch):
                    for row in _rows(name, bundle, cell, part, config.horizons):
                        run.answer(row)
                        rows.append(row)
                    progress.advance(cell.name, len(part))
    frame = pl.DataFrame(rows, infer_schema_length=None)
    write_frame(run, "windows", frame)
    results = delta_results(frame, config.horizons)
    run.results(results)
    return results


@torch.inference_mode()
def _rows(
    name: str, bundle: Bundle, cell: Cell, windows: list[Window], horizons: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    slots = bundle.config.gistnet.slots
    nats = arms_nats(
        bundle,
        cell.window,
        ids=torch.from_numpy(np.stack([one.ids for one in windows])),
        wrong=torch.from_numpy(np.stack([one.wrong for one in windows])),
        elsewhere=None
        if windows[0].elsewhere is None
        else torch.from_numpy(np.stack([one.elsewhere for one in windows if one.elsewhere is not None])),
    )
    for at, window in enumerate(windows):
        yield {
            "cell": cell.name,
            "genre": cell.genre.name,
            "lod": cell.lod,
            "distance": cell.window.raw_tokens,
            "model": name,
            "positions": cell.window.gists * slots,
            "document": window.document,
            "segment": window.segment,
            "start": window.start,
            "wrong_document": window.wrong_document,
        } | {
            f"{arm}_{horizon}": _mean(lost[at], window.counted, horizon, max(horizons))
            for horizon in horizons
            for arm, lost in nats.items()
        }


def _mean(lost: Tensor, counted: np.ndarray | None, horizon: int, longest: int) -> float | None:
    """Nats a token of the first `horizon` tokens; where only some count, of these, at the longest horizon alone."""
    if counted is None:
        return float(lost[:horizon].mean())
    return float(lost[torch.from_numpy(counted)].mean()) if horizon == longest else None


def mean_net(bundle: Bundle) -> GistNet:
    """The mean in the place of a bundle's gists, of as many slots."""
    config = GistNetConfig(correction="none", slots=bundle.config.gistnet.slots)
    return GistNet(config, width=bundle.base.width, block_size=bundle.config.block_size)


def arms_nats(
    bundle: Bundle, window: EmbeddingWindow, *, ids: Tensor, wrong: Tensor, elsewhere: Tensor | None = None
) -> dict[str, Tensor]:
    """Nats (B, scored) of the scored tokens of windows `ids` (B, tokens) behind every arm, by its name."""
    base, policy, net = bundle.base, bundle.config.positions, bundle.gistnet
    targets = scored(ids, window)

    def lost(hidden: Tensor) -> Tensor:
        logits = base.unembed(predicting(hidden, window))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def plain(before: int) -> Tensor:
        return lost(hidden_plain(base, window, policy, ids, before))

    def behind(gistnet: GistNet, source: Tensor) -> Tensor:
        gists = make_gists(gistnet, base, window, source)
        return lost(hidden_behind(base, window, policy, gists, ids))

    found = {
        "full": plain(window.distant_tokens),
        "drop": plain(window.gists * net.config.slots),
        "none": plain(0),
        "gists": behind(net, ids),
        "mean": behind(mean_net(bundle), ids),
        "wrong": behind(net, wrong),
    }
    if elsewhere is not None:
        found["elsewhere"] = behind(net, elsewhere)
    return found
