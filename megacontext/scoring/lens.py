"""LensNet as a scorer, and the features that it is trained and used on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from megacontext.focus.context import WorkingContext
from megacontext.index import AddressIndex, WordIndex, words
from megacontext.lensnet.lens import KINDS, TAIL_KIND, LensInput, LensNet
from megacontext.scoring.descendants import BestBelow
from megacontext.scoring.scorer import SCORERS, Question, QuestionEncoder, ScoreFunction, Scorer
from megacontext.tokenizer import Tokenizer
from megacontext.tree.memory import Memory


@dataclass(frozen=True)
class Gaze:
    """What is asked, compared with every block of a history: ready for any context."""

    address: np.ndarray
    """float32 (A,): the question's."""
    matches: BestBelow
    """Of its cosines with the addresses of all blocks."""
    words: BestBelow | None = None
    """Of the matches of its last words, the best of the history being 1; None for a LensNet that sees no words."""


def gaze_at(
    question: Question, memory: Memory, encoder: QuestionEncoder, lens: LensNet, tokenizer: Tokenizer
) -> Gaze:
    """A look at a history for one question, of all that `lens` wants to see."""
    address = encoder.encode_question(question.ids)
    size = memory.block_size
    matches = BestBelow(question.masked(AddressIndex.of(memory).matches(address), size, -1.0), size)
    if not lens.config.words:
        return Gaze(address, matches)
    said = words(tokenizer.decode(question.last))
    found = question.masked(WordIndex.of(memory, tokenizer).scores(said), size, 0.0)
    return Gaze(address, matches, BestBelow(found / max(found.max(initial=0.0), 1e-6), size))


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
    words: np.ndarray
    """float32 (N,): see `LensInput`."""


def entry_features(context: WorkingContext, memory: Memory, gaze: Gaze) -> EntryFeatures:
    """Read the features of `context` from its memory, for one look at it."""
    entries = len(context)
    gists = np.zeros((entries, memory.gist_width), dtype=np.float32)
    addresses = np.zeros((entries, memory.address_width), dtype=np.float32)
    match = gaze.matches.values(context, tail=0.0)
    best = gaze.matches.blocks(context)
    full = len(best)
    if full:
        addresses[:full] = AddressIndex.of(memory).rows(best)
        # A raw block is shown to LensNet by the gist that it would collapse to.
        gists[:full] = memory.gists_at(np.maximum(context.lod[:full], 1), context.index[:full])
    kind = np.minimum(context.lod + 1, KINDS - 1)
    kind[full:] = TAIL_KIND
    said = np.zeros(entries, dtype=np.float32) if gaze.words is None else gaze.words.values(context, tail=0.0)
    return EntryFeatures(gists, addresses, match, kind, gaze.address, said)


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
        words=padded("words"),
    )


@torch.inference_mode()
def gazed_scores(lens: LensNet, memory: Memory, context: WorkingContext, gazes: list[Gaze]) -> np.ndarray:
    """The highest score that any of the looks gives each entry of `context`, float32 (N,)."""
    if not len(context):
        return np.zeros(0, dtype=np.float32)
    features = [entry_features(context, memory, gaze) for gaze in gazes]
    return lens.scores(lens(collate(features))).amax(dim=0).numpy()


def lens_scores(lens: LensNet, memory: Memory, gaze: Gaze) -> ScoreFunction:
    """The score function of `lens` for one look."""
    return lambda context: gazed_scores(lens, memory, context, [gaze])


@SCORERS.register("lensnet")
class Lens(Scorer):
    """LensNet over the context, the addresses of the tree and the question."""

    def ask(self, question: Question) -> ScoreFunction:
        parts = self.parts
        gaze = gaze_at(question, parts.memory, parts.encoder, parts.lens, parts.tokenizer)
        return lens_scores(parts.lens, parts.memory, gaze)
