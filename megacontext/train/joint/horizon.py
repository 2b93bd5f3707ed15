"""Step *horizon*: contexts side by side with the tokens that truly follow, and the loss on those alone.

A row is [context || prompt || H true tokens]. The state at an entry foretells the token after the entry's span, so the
H tokens are foretold from the states at -H-1 to -2: the last entry before them, and all of them but the last. With
random tokens no training brings this loss below ln V; one place further, and the targets would be among what is read.
Rows end together, with filling on the left, so one slice serves all; a row with a shorter horizon ignores the rest.

Rows are laid out by `runtime.layout`, as a session lays them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.focus.context import WorkingContext
from megacontext.models.base import NO_TOKEN
from megacontext.models.gpt import GPT
from megacontext.models.positions import PositionPolicy
from megacontext.runtime.layout import lay_out
from megacontext.train.joint.build import Tree
from megacontext.train.joint.passages import Ask

IGNORED = -1
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Row:
    """One context of one tree, and what is foretold behind it."""

    tree: Tree
    context: WorkingContext
    ask: Ask


@dataclass(frozen=True, eq=False)
class Packed:
    """B rows of W entries, ready to read."""

    embeddings: Tensor
    """(B, W, E)."""
    ids: Tensor
    """int64 (B, W), NO_TOKEN for gists and filling."""
    positions: Tensor
    """float64 (B, W)."""
    padding: Tensor | None
    """bool (B, W): True for filling; None where there is none."""
    targets: Tensor
    """int64 (B, H): the true tokens, at the right end; IGNORED before a shorter horizon."""


def pack(rows: Sequence[Row], base: GPT, policy: PositionPolicy) -> Packed:
    """Rows of any lengths, each with at least one position before its horizon."""
    laid = [
        lay_out(row.context, len(row.ask.prompt) + len(row.ask.horizon), "timeline", policy, 0)
        for row in rows
    ]
    width, horizon = max(map(len, laid)), max(len(row.ask.horizon) for row in rows)
    ids = np.full((len(rows), width), NO_TOKEN, dtype=np.int64)
    positions = np.zeros((len(rows), width))
    padding = np.zeros((len(rows), width), dtype=bool)
    targets = np.full((len(rows), horizon), IGNORED, dtype=np.int64)
    tables: dict[int, int] = {}
    """Where each tree's gists begin among all, LOD1 first."""
    gists: list[Tensor] = []
    count = 0
    at: list[np.ndarray] = []
    which: list[np.ndarray] = []
    for number, (row, own) in enumerate(zip(rows, laid, strict=True)):
        assert len(own) > len(row.ask.horizon), "something is read before the first token is foretold"
        tree, pad = row.tree, width - len(own)
        whole = np.concatenate((tree.history, row.ask.prompt, row.ask.horizon))
        token = own.lod == 0
        ids[number, pad:][token] = whole[own.index[token]]
        positions[number, pad:] = own.position
        padding[number, :pad] = True
        if len(row.ask.horizon):
            targets[number, -len(row.ask.horizon) :] = row.ask.horizon
        if id(tree) not in tables:
            tables[id(tree)] = count
            gists.extend(tree.levels)
            count += sum(map(len, tree.levels))
        begins = np.cumsum([0, *map(len, tree.levels)])
        slots = np.flatnonzero(~token)
        at.append(number * width + pad + slots)
        which.append(tables[id(tree)] + begins[own.lod[slots] - 1] + own.index[slots])
    id_rows = torch.from_numpy(ids)
    embeddings = base.embed(id_rows.clamp_min(0)) * (id_rows >= 0)[..., None]
    if len(slots := np.concatenate(at)):
        table = torch.cat(gists)[torch.from_numpy(np.concatenate(which))].to(embeddings.dtype)
        flat = embeddings.flatten(0, 1).index_copy(0, torch.from_numpy(slots), table)
        embeddings = flat.view(*ids.shape, -1)
    return Packed(
        embeddings,
        id_rows,
        torch.from_numpy(positions),
        torch.from_numpy(padding) if padding.any() else None,
        torch.from_numpy(targets),
    )


def foretold(base: GPT, packed: Packed) -> Tensor:
    """Nats (B, H) of each true token; 0 where a row's horizon is shorter."""
    horizon = packed.targets.shape[1]
    hidden = base(packed.embeddings, packed.positions, ids=packed.ids, padding=packed.padding)
    logits = base.unembed(hidden[:, -horizon - 1 : -1])
    return F.cross_entropy(logits.transpose(1, 2), packed.targets, ignore_index=IGNORED, reduction="none")


def nats_of(rows: Sequence[Row], base: GPT, policy: PositionPolicy) -> np.ndarray:
    """Nats of each row's whole horizon, float64 (B,), without a gradient, in batches of rows of like lengths."""
    found = np.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda number: rows[number].context.cost)
    with torch.no_grad():
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            nats = foretold(base, pack([rows[number] for number in chosen], base, policy))
            found[chosen] = nats.double().sum(dim=1).numpy()
    return found
