"""Step *build*: the tree of each history under training, its gists differentiable, and what LensNet sees of it.

The same tree that a memory would store, from the same nets over the same blocks, but kept as tensors, so that the loss
at the horizon reaches GistNet, and through the token embeddings the base, at every level. Blocks of all histories
of a step go through the nets together.

LensNet reads detached copies: it is to judge gists, not to shape them. What it sees here equals what
`scoring.lens.entry_features` reads from a memory; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megacontext.focus.context import WorkingContext
from megacontext.gistnet.address import AddressNet
from megacontext.lensnet.lens import KINDS, TAIL_KIND, LensNet
from megacontext.runtime.bundle import Bundle
from megacontext.scoring.descendants import BestBelow
from megacontext.scoring.lens import EntryFeatures, collate
from megacontext.scoring.scorer import ScoreFunction
from megacontext.train.joint.passages import Ask
from megacontext.tree.encoder import NO_TOKEN, left_windows


@dataclass(frozen=True, eq=False)
class Tree:
    """One history of N tokens, with the vectors of all its nodes."""

    history: np.ndarray
    """int (N,)."""
    levels: tuple[Tensor, ...]
    """Gists of LOD 1, 2, ...: (n_l, E) each; with a gradient where they were built with one."""
    addresses: Tensor
    """(num_blocks, A)."""
    block_size: int

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.history)

    @property
    def num_blocks(self) -> int:
        """Finished blocks."""
        return len(self.addresses)


def build(bundle: Bundle, histories: Sequence[np.ndarray]) -> list[Tree]:
    """The trees of `histories`, each of at least one finished block; gradients flow as the caller has them."""
    size, left = bundle.config.block_size, bundle.config.address.left_tokens
    blocks, windows = [], []
    for history in histories:
        own = history[: len(history) // size * size].reshape(-1, size).astype(np.int64)
        assert len(own), f"a tree has at least one block of {size} tokens, got a history of {len(history)}"
        blocks.append(own)
        windows.append(np.concatenate((left_windows(np.full(left, NO_TOKEN), own, left), own), axis=1))
    counts = [len(own) for own in blocks]
    tokens = bundle.base.embed(torch.from_numpy(np.concatenate(blocks)))
    level = list(bundle.gistnet(tokens, 1).split(counts))
    addresses = bundle.address(torch.from_numpy(np.concatenate(windows)), AddressNet.BLOCK).split(counts)
    levels = [[own] for own in level]
    lod = 2
    while any(len(own) >= size for own in level):
        families = [own[: len(own) // size * size].unflatten(0, (-1, size)) for own in level]
        counts = [len(own) for own in families]
        level = list(bundle.gistnet(torch.cat(families), lod).split(counts))
        for own, of_tree in zip(level, levels, strict=True):
            if len(own):
                of_tree.append(own)
        lod += 1
    return [
        Tree(history, tuple(of_tree), own, size)
        for history, of_tree, own in zip(histories, levels, addresses, strict=True)
    ]


class View:
    """One ask of one tree, as LensNet and the allocator see it."""

    def __init__(self, tree: Tree, ask: Ask, question: np.ndarray):
        """`question` (A,) is the question's address."""
        self.tree, self.ask, self.question = tree, ask, question
        self._addresses = tree.addresses.detach().float().numpy()
        self._gists = [level.detach().float().numpy() for level in tree.levels]
        self.matches = self._addresses @ question
        """float32 (num_blocks,): cosine of each block's address with the question."""
        self._best = BestBelow(self.matches, tree.block_size)

    def features(self, context: WorkingContext) -> EntryFeatures:
        """What LensNet reads of `context`."""
        entries = len(context)
        gists = np.zeros((entries, self._gists[0].shape[1]), dtype=np.float32)
        addresses = np.zeros((entries, len(self.question)), dtype=np.float32)
        best = self._best.blocks(context)
        addresses[: len(best)] = self._addresses[best]
        for lod, level in enumerate(self._gists, start=1):
            at = np.flatnonzero(np.maximum(context.lod[: len(best)], 1) == lod)
            gists[at] = level[context.index[at]]
        kind = np.minimum(context.lod + 1, KINDS - 1)
        kind[len(best) :] = TAIL_KIND
        match, unseen = self._best.values(context, tail=0.0), np.zeros(entries, dtype=np.float32)
        return EntryFeatures(gists, addresses, match, kind, self.question, words=unseen)

    def best_block(self, context: WorkingContext, slot: int) -> int:
        """The block below a gist that matches the question best."""
        return int(self._best.blocks(context)[slot])

    def scores(self, lens: LensNet) -> ScoreFunction:
        """LensNet's scores, as deployed."""

        @torch.no_grad()
        def score(context: WorkingContext) -> np.ndarray:
            return lens.scores(lens(collate([self.features(context)])))[0].float().numpy()

        return score


def question_addresses(bundle: Bundle, asks: Sequence[Ask]) -> Tensor:
    """Addresses (Q, A) of the asks' questions, each cut to its last tokens as the encoder cuts it."""
    longest = bundle.config.address.longest_question
    cut = [ask.question[-longest:] for ask in asks]
    rows = np.full((len(cut), max(map(len, cut))), NO_TOKEN, dtype=np.int64)
    for row, ids in zip(rows, cut, strict=True):
        row[: len(ids)] = ids
    return bundle.address(torch.from_numpy(rows), AddressNet.QUESTION)


def views(trees: Sequence[Tree], asks: Sequence[Sequence[Ask]], addresses: Tensor) -> list[View]:
    """A view of every ask, in order; `addresses` (Q, A) of all of them."""
    found = addresses.detach().float().numpy()
    pairs = [(tree, ask) for tree, of_tree in zip(trees, asks, strict=True) for ask in of_tree]
    return [View(tree, ask, own) for (tree, ask), own in zip(pairs, found, strict=True)]
