"""LensNet as a scorer, alone and with BM25, and the features that it is trained and used on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from megacontext.focus.context import WorkingContext
from megacontext.lensnet.lens import KINDS, TAIL_KIND, LensInput, LensNet
from megacontext.scoring.lexical import BM25
from megacontext.scoring.scorer import SCORERS, Question, ScoreFunction, Scorer, ScorerParts, block_starts
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
    entries = len(context)
    gists = np.zeros((entries, memory.gist_width), dtype=np.float32)
    addresses = np.zeros((entries, memory.address_width), dtype=np.float32)
    match = np.zeros(entries, dtype=np.float32)
    starts = block_starts(context)
    full = len(starts)
    if full:
        best = np.maximum.reduceat(matches, starts)
        owner = np.repeat(np.arange(full), np.diff(starts, append=len(matches)))
        winners = np.flatnonzero(matches == best[owner])
        _, first = np.unique(owner[winners], return_index=True)
        addresses[:full] = memory.addresses()[winners[first]]
        match[:full] = best
        # A raw block is shown to LensNet by the gist that it would collapse to.
        lod = np.maximum(context.lod[:full], 1)
        for level in np.unique(lod):
            at = np.flatnonzero(lod == level)
            gists[at] = memory.gists(int(level), context.index[at])
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

    @torch.inference_mode()
    def scores(context: WorkingContext) -> np.ndarray:
        if not len(context):
            return np.zeros(0, dtype=np.float32)
        features = entry_features(context, memory, question, matches)
        return lens.scores(lens(collate([features])))[0].numpy()

    return scores


@SCORERS.register("lensnet")
class Lens(Scorer):
    """LensNet over the context, the addresses of the tree and the question."""

    def ask(self, question: Question) -> ScoreFunction:
        address = self.parts.encoder.encode_question(question.ids)
        matches = self.parts.memory.addresses() @ address
        return lens_scores(self.parts.lens, self.parts.memory, address, matches)


@SCORERS.register("lensnet+bm25")
class LensAndBM25(Scorer):
    """LensNet first; BM25 spends what LensNet leaves of the budget.

    LensNet is calibrated and often content with one block. An entry that it does not want still gets half of its
    BM25 score, so that the best lexical matches fill the rest.
    """

    def __init__(self, parts: ScorerParts):
        super().__init__(parts)
        self._lens, self._bm25 = Lens(parts), BM25(parts)

    def ask(self, question: Question) -> ScoreFunction:
        lens, bm25 = self._lens.ask(question), self._bm25.ask(question)
        return lambda context: np.maximum(lens(context), 0.5 * bm25(context))
