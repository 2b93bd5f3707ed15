"""LensNet as a scorer, and the features that it is trained and used on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from megacontext.focus.context import WorkingContext
from megacontext.index import AddressIndex
from megacontext.lensnet.lens import KINDS, TAIL_KIND, LensInput, LensNet
from megacontext.scoring.descendants import BestBelow
from megacontext.scoring.scorer import SCORERS, Question, ScoreFunction, Scorer
from megacontext.tree.memory import Memory


@dataclass(frozen=True)
class EntryFeatures:
    """What LensNet reads of one working context of N entries."""

    gists: np.ndarray
    """float32 (N, E)."""
    addresses: np.ndarray
    """float32 (N, A): best address below each entry."""
    match: np.ndarray
    """float32 (N,): its cosine with the question."""
    kind: np.ndarray
    """int64 (N,)."""
    question: np.ndarray
    """float32 (A,)."""


def entry_features(
    context: WorkingContext, memory: Memory, question: np.ndarray, matches: np.ndarray
) -> EntryFeatures:
    """Read the features of `context` from its memory.

    `question` (A,) is the question's address, `matches` (num_blocks,) its cosine with every block's address.
    """
    return look_features(context, memory, question, BestBelow(matches, memory.block_size))


def look_features(
    context: WorkingContext, memory: Memory, question: np.ndarray, matches: BestBelow
) -> EntryFeatures:
    """The same, of matches whose best below every node is known already."""
    entries = len(context)
    gists = np.zeros((entries, memory.gist_width), dtype=np.float32)
    addresses = np.zeros((entries, memory.address_width), dtype=np.float32)
    match = matches.values(context, tail=0.0)
    best = matches.blocks(context)
    full = len(best)
    if full:
        addresses[:full] = AddressIndex.of(memory).rows(best)
        # A raw block is shown to LensNet by the gist that it would collapse to.
        gists[:full] = memory.gists_at(np.maximum(context.lod[:full], 1), context.index[:full])
    kind = np.minimum(context.lod + 1, KINDS - 1)
    kind[full:] = TAIL_KIND
    return EntryFeatures(gists, addresses, match, kind, question)


def collate(rows: list[EntryFeatures]) -> LensInput:
    """Contexts side by side, padded to the longest, as tensors."""
    entries = max(len(row.kind) for row in rows)

    def padded(name: str) -> torch.Tensor:
        first = getattr(rows[0], name)
        out = np.zeros((len(rows), entries, *first.shape[1:]), dtype=first.dtype)
        for into, row in zip(out, rows, strict=True):
            into[: len(row.kind)] = getattr(row, name)
        return torch.from_numpy(out)

    present = torch.zeros(len(rows), entries, dtype=torch.bool)
    for into, row in zip(present, rows, strict=True):
        into[: len(row.kind)] = True
    return LensInput(
        gists=padded("gists"),
        addresses=padded("addresses"),
        match=padded("match"),
        kind=padded("kind"),
        present=present,
        question=torch.from_numpy(np.stack([row.question for row in rows])),
    )


def lens_scores(lens: LensNet, memory: Memory, question: np.ndarray, matches: np.ndarray) -> ScoreFunction:
    """The score function of `lens` for one question; arguments as for `entry_features`."""
    best = BestBelow(matches, memory.block_size)

    @torch.inference_mode()
    def scores(context: WorkingContext) -> np.ndarray:
        if not len(context):
            return np.zeros(0, dtype=np.float32)
        features = look_features(context, memory, question, best)
        return lens.scores(lens(collate([features])))[0].numpy()

    return scores


@SCORERS.register("lensnet")
class Lens(Scorer):
    """LensNet over the context, the addresses of the tree and the question."""

    def ask(self, question: Question) -> ScoreFunction:
        address = self.parts.encoder.encode_question(question.ids)
        memory = self.parts.memory
        matches = question.masked(AddressIndex.of(memory).matches(address), memory.block_size, -1.0)
        return lens_scores(self.parts.lens, self.parts.memory, address, matches)
