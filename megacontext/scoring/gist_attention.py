"""Gist attention: the question reads the gists, and what it attends to is worth opening.

Simplified Sparse Attention (2604.20920) in this house: queries score gists by the model's own attention, and the best
blocks unfold, here through the one allocator, like the blocks of any other scorer. No network is trained for it: what a
gist's key says of its block was learnt by the language model's loss. It looks at gists outside of the budget, as every
index is looked at outside of it; what it costs is in the note (obsidian/architecture/Gist tokens.md).

`gist-attention` reads the gists of all blocks at once, its cost grows with the history. `gist-attention-beam` walks
down the tree: the gists of the coarsest level first, then the children of the best of each level, so that it reads a
number of gists that grows with the logarithm; what is hidden under a gist that does not look like it is never found.

Deliberately ignorant of the model: masses come from a `GistReader`.
"""

from __future__ import annotations

import numpy as np

from megacontext.errors import ConfigError
from megacontext.scoring.scorer import SCORERS, GistReader, Question, RankedScorer, ScorerParts
from megacontext.spans import complete_counts

BEAM = 4
"""Nodes of a level whose children are read."""


class _Reads(RankedScorer):
    """A scorer that has a reader of gists."""

    def __init__(self, parts: ScorerParts):
        super().__init__(parts)
        if parts.gists is None:
            raise ConfigError(
                "gist attention needs a model that reads gists, none was given; pass ScorerParts(gists=...), or choose "
                "another scorer"
            )
        self._read: GistReader = parts.gists


@SCORERS.register("gist-attention")
class GistAttention(_Reads):
    """The question's attention to the gist of every block."""

    def block_values(self, question: Question) -> np.ndarray:
        blocks = self.parts.memory.num_blocks
        return self._read(np.ones(blocks, dtype=np.int64), np.arange(blocks), question.ids)


@SCORERS.register("gist-attention-beam")
class GistAttentionBeam(_Reads):
    """The same for the children of the best gists of each level alone; blocks that were not read have no value."""

    def block_values(self, question: Question) -> np.ndarray:
        memory = self.parts.memory
        size, counts = memory.block_size, complete_counts(memory.num_tokens, memory.block_size)
        values = np.full(memory.num_blocks, -np.inf)
        top = len(counts) - 1
        nodes = np.zeros(0, dtype=np.int64)
        for lod in range(top, 0, -1):
            # Nodes at the end that have no parent yet are read with their own level.
            orphans = np.arange(counts[lod + 1] * size if lod < top else 0, counts[lod])
            nodes = np.union1d(nodes, orphans)
            mass = self._read(np.full(len(nodes), lod), nodes, question.ids)
            if lod == 1:
                values[nodes] = mass
                break
            best = nodes[np.argsort(-mass, kind="stable")[:BEAM]]
            nodes = (best[:, None] * size + np.arange(size)).reshape(-1)
        return values
