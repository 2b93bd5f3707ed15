"""LensNet looking again: what has been opened asks for more.

One look at the question cannot lead to the second link of a chain: "Where is the lantern?" names neither the person
who took it nor the room. As retrievers of several hops do (after MDR, Xiong et al. 2021), the text of the evidence that
is open stands in front of the question, and LensNet looks again: with another address, at the same context. An entry
scores the highest of all looks. Whatever a look opens may ask in turn, so a chain is followed link by link, through the
one allocator and within the one budget; where a look finds nothing that leads on, it adds nothing.

A look from a block reads the tokens before it that the block's address was made from too, so that a sentence which
was cut by the block boundary still names its subject. Deliberately ignorant of tasks: that a second look may find the
next link, and that it must find nothing where there is none, is learnt (`train.lens`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from megacontext.focus.context import WorkingContext
from megacontext.scoring.descendants import num_finished
from megacontext.scoring.lens import Gaze, gaze_at, gazed_scores
from megacontext.scoring.scorer import SCORERS, Question, ScoreFunction, Scorer
from megacontext.spans import Span

MOST_LOOKS = 9
"""Looks at one context, that of the question included: what a chain of 6 hops takes, with room for a wrong turn."""
FOLLOWED_FROM = 0.2
"""A block must score more than this to ask for more: the allocator's own threshold for opening it."""


def seen_again(block: int, block_size: int, left_tokens: int) -> Span:
    """What a look from `block` reads of the history."""
    start = block * block_size
    return Span(max(0, start - left_tokens), start + block_size)


@SCORERS.register("lensnet-hops")
class LensHops(Scorer):
    """LensNet, asked again from every open block that it wanted."""

    def ask(self, question: Question) -> ScoreFunction:
        made: dict[int | None, Gaze] = {}

        def gaze(block: int | None) -> Gaze:
            if block not in made:
                made[block] = self._gaze(question, block)
            return made[block]

        def scores(context: WorkingContext) -> np.ndarray:
            if not len(context):
                return np.zeros(0, dtype=np.float32)
            best = self._scores(context, [gaze(None)])
            raw = np.flatnonzero(context.lod[: num_finished(context)] == 0)
            asked = np.zeros(len(context), dtype=bool)
            looks = 1
            while looks < MOST_LOOKS:
                wanted = raw[(best[raw] > FOLLOWED_FROM) & ~asked[raw]]
                if not len(wanted):
                    break
                # The surest first; of equals the earliest.
                wanted = wanted[np.argsort(-best[wanted], kind="stable")][: MOST_LOOKS - looks]
                asked[wanted] = True
                looks += len(wanted)
                found = self._scores(context, [gaze(int(context.index[slot])) for slot in wanted])
                best = np.maximum(best, found)
            return best

        return scores

    def _gaze(self, question: Question, block: int | None) -> Gaze:
        parts, memory = self.parts, self.parts.memory
        if block is not None:
            seen = seen_again(block, memory.block_size, memory.left_tokens)
            question = replace(
                question, ids=np.concatenate((memory.tokens(seen.start, seen.stop), question.ids))
            )
        return gaze_at(question, memory, parts.encoder, parts.lens, parts.tokenizer)

    def _scores(self, context: WorkingContext, gazes: list[Gaze]) -> np.ndarray:
        """The highest score of each entry over some looks, float32 (N,)."""
        return gazed_scores(self.parts.lens, self.parts.memory, context, gazes)
