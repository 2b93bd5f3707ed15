"""Contexts of continued pretraining: any block may be folded, those that hold the answers too.

A stretch of a book, with facts planted or without, is cut into blocks. The last few stay raw, of the others as many as
are drawn; what was said before may stand in front as gists of level 2. Questions and answers follow, and then some of
the folded blocks are said again, word for word. In contrast to `train.contexts`, where all evidence is raw,
evidence is raw only with a chance: what is asked of a folded block can only be learnt by putting it into the gist, and
by attending to the gist that has it. So the next-token loss alone teaches what a gist says and where the model looks
for it. Echoes teach it soonest: every word of one is worth finding, where an answer has two or three.

The target of a token is the next one on the timeline; a gist's own place has none, for its hidden state is never
read. Deliberately knows nothing of models: numpy arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.models.base import NO_TOKEN
from megacontext.models.positions import entry_positions
from megacontext.tasks.facts import FactsConfig, Question
from megacontext.train.contexts import IGNORED, ContextSampler
from megacontext.tree.encoder import left_windows


@dataclass(frozen=True, kw_only=True)
class FoldedContexts:
    """The shape of the contexts of one stage. Lengths are drawn anew for each batch, and shared by its rows."""

    min_blocks: int
    max_blocks: int
    """Full blocks of a stretch; as many more tokens as fill no block stand behind them."""
    max_raw: int
    """Blocks that stay raw at most, besides `tail`; any number from 0 on is as likely. What is raw for its evidence
    counts among them."""
    tail: int = 0
    """Blocks at the end that are always raw."""
    keys: int = 0
    """Facts planted; 0 = plain text, and no questions."""
    questions: int = 0
    """Questions asked at most."""
    echoes: int = 0
    """Folded blocks that are said again at the end at most: behind the questions, or they would answer them."""
    evidence_raw: float = 0.5
    """Chance that the blocks of a question's evidence are raw."""
    coarse: int = 0
    """Gists of level 2 in front at most."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_blocks <= self.max_blocks:
            raise ConfigError(
                f"contexts need 1 <= min_blocks <= max_blocks, got {self.min_blocks} and {self.max_blocks}"
            )
        if min(self.max_raw, self.tail, self.keys, self.questions, self.echoes, self.coarse) < 0:
            raise ConfigError(
                "max_raw, tail, keys, questions, echoes and coarse of contexts must not be negative; raise it"
            )
        if (self.keys > 0) != (self.questions > 0) or not 0 <= self.evidence_raw <= 1:
            raise ConfigError(
                "contexts have keys and questions, or neither, and evidence_raw in [0, 1], got "
                f"{self.keys}, {self.questions} and {self.evidence_raw}"
            )

    def stretch_tokens(self, block_size: int) -> int:
        """Tokens of a book that a context may need."""
        return (self.max_blocks + 1 + self.coarse * block_size) * block_size


@dataclass(frozen=True)
class FoldedBatch:
    """Padded contexts. W is the longest of the batch; padding is on the right and never a target."""

    ids: np.ndarray
    """int64 (B, W): token id, NO_TOKEN where a gist or padding stands."""
    targets: np.ndarray
    """int64 (B, W): the next token, or IGNORED."""
    is_answer: np.ndarray
    """bool (B, W): the target is part of an answer."""
    positions: np.ndarray
    """float64 (B, W)."""
    slots: np.ndarray
    """int64 (G + C, 2): row and column of each gist: first those of blocks, then those of level 2."""
    blocks: np.ndarray
    """int64 (G, left + K): the tokens of each folded block and those before it."""
    coarse: np.ndarray
    """int64 (C, K, left + K): those of the blocks of each gist of level 2."""

    @property
    def tokens_read(self) -> int:
        """Tokens that the base reads, in contexts and in blocks."""
        return int((self.ids >= 0).sum()) + self.blocks.size + self.coarse.size


@dataclass(frozen=True)
class _Row:
    """One context before padding; fields as in FoldedBatch."""

    ids: np.ndarray
    targets: np.ndarray
    is_answer: np.ndarray
    positions: np.ndarray
    columns: np.ndarray
    blocks: np.ndarray
    coarse: np.ndarray


class FoldedSampler:
    """Draws contexts from the books of a ContextSampler. The same generator state gives the same contexts."""

    def __init__(self, source: ContextSampler, left_tokens: int):
        self.source, self.left_tokens = source, left_tokens
        self._newline = source.tokenizer.encode("\n")

    def batch(self, rng: np.random.Generator, size: int, spec: FoldedContexts) -> FoldedBatch:
        """`size` contexts by `spec`, padded to the longest."""
        block_size = self.source.block_size
        num_tokens = int(rng.integers(spec.min_blocks * block_size, (spec.max_blocks + 1) * block_size))
        raw = int(rng.integers(spec.max_raw + 1))
        questions = int(rng.integers(1, spec.questions + 1)) if spec.questions else 0
        echoes, coarse = int(rng.integers(spec.echoes + 1)), int(rng.integers(spec.coarse + 1))
        rows = [self._row(rng, spec, num_tokens, raw, questions, echoes, coarse) for _ in range(size)]
        width = max(len(row.ids) for row in rows)
        ids = np.full((size, width), NO_TOKEN, dtype=np.int64)
        targets = np.full((size, width), IGNORED, dtype=np.int64)
        is_answer = np.zeros((size, width), dtype=bool)
        positions = np.zeros((size, width))
        for number, row in enumerate(rows):
            at = slice(len(row.ids))
            ids[number, at], targets[number, at] = row.ids, row.targets
            is_answer[number, at], positions[number, at] = row.is_answer, row.positions
        fine = [(number, column) for number, row in enumerate(rows) for column in row.columns]
        front = [(number, column) for number in range(size) for column in range(coarse)]
        return FoldedBatch(
            ids,
            targets,
            is_answer,
            positions,
            np.array([*fine, *front], dtype=np.int64).reshape(-1, 2),
            np.concatenate([row.blocks for row in rows]).astype(np.int64),
            np.concatenate([row.coarse for row in rows]).astype(np.int64),
        )

    def _row(
        self,
        rng: np.random.Generator,
        spec: FoldedContexts,
        num_tokens: int,
        max_raw: int,
        questions: int,
        echoes: int,
        coarse: int,
    ) -> _Row:
        size, left = self.source.block_size, self.left_tokens
        ahead = coarse * size * size
        known, asked = self._text(rng, spec.keys, num_tokens, ahead, questions)
        timeline = known[ahead:]
        blocks = num_tokens // size
        raw = self._raw(rng, spec, blocks, max_raw, asked)
        again = rng.permutation(np.flatnonzero(~raw))[:echoes]
        echo = timeline[: blocks * size].reshape(blocks, size)[again].reshape(-1)
        prompt, said = self._dialogue(asked)
        whole = np.concatenate((timeline, prompt, echo))
        answers = np.concatenate((np.zeros(len(timeline), dtype=bool), said, np.zeros(len(echo), dtype=bool)))
        is_raw = np.ones(len(whole), dtype=bool)
        is_raw[: blocks * size] = np.repeat(raw, size)
        # A gist takes the place of its block's last token: that is where its span ends.
        ends = np.flatnonzero(~raw) * size + size - 1
        keep = is_raw.copy()
        keep[ends] = True
        places = np.flatnonzero(keep)
        token = is_raw[places]
        following = np.append(whole[1:], IGNORED)[places]
        front = np.arange(-coarse, 0) * size * size
        start = np.concatenate((front, np.where(token, places, places - size + 1)))
        stop = np.concatenate((front + size * size, places + 1))
        before = np.concatenate((np.full(left, NO_TOKEN), known))
        cut = known[: ahead + blocks * size].reshape(-1, size)
        windows = np.concatenate((left_windows(before[:left], cut, left), cut), axis=1)
        return _Row(
            ids=np.concatenate((np.full(coarse, NO_TOKEN), np.where(is_raw, whole, NO_TOKEN)[places])),
            targets=np.concatenate((np.full(coarse, IGNORED), np.where(token, following, IGNORED))),
            is_answer=np.concatenate(
                (np.zeros(coarse, dtype=bool), token & np.append(answers[1:], False)[places])
            ),
            positions=entry_positions(start, stop, self.source.positions),
            columns=coarse + np.searchsorted(places, ends),
            blocks=windows[coarse * size :][~raw],
            coarse=windows[: coarse * size].reshape(coarse, size, left + size),
        )

    def _text(
        self, rng: np.random.Generator, keys: int, num_tokens: int, ahead: int, questions: int
    ) -> tuple[np.ndarray, list[tuple[Question, int]]]:
        """`ahead` + `num_tokens` tokens, and questions with the place at which their text begins among the latter.

        What a question needs stands in the last `num_tokens`.
        """
        if not keys:
            return self._plain(rng, num_tokens + ahead), []
        facts = FactsConfig(keys=keys, max_versions=3, attributes_per_person=int(rng.integers(1, 4)))
        planted, before = self.source.history(rng, num_tokens, facts, before=ahead)
        # The facts made the stretch longer: what is in front of its last `num_tokens` moves into what is ahead.
        known = np.concatenate((before, planted.ids))[-(ahead + num_tokens) :]
        dropped = len(planted.ids) - num_tokens
        there = [question for question in planted.questions if question.needed.start >= dropped]
        return known, [(there[which], dropped) for which in rng.permutation(len(there))[:questions]]

    def _plain(self, rng: np.random.Generator, count: int) -> np.ndarray:
        books = [book for book in self.source.books if len(book) >= count]
        if not books:
            raise ConfigError(
                f"training cuts stretches of {count:,} tokens, no book is as long; give longer books or lower "
                "max_blocks"
            )
        sizes = np.array([len(book) for book in books], dtype=np.float64)
        book = books[int(rng.choice(len(books), p=sizes / sizes.sum()))]
        start = int(rng.integers(len(book) - count + 1))
        return book[start : start + count]

    def _raw(
        self,
        rng: np.random.Generator,
        spec: FoldedContexts,
        blocks: int,
        most: int,
        asked: list[tuple[Question, int]],
    ) -> np.ndarray:
        """Which blocks stay raw, bool (blocks,)."""
        size = self.source.block_size
        raw = np.zeros(blocks, dtype=bool)
        folded = np.zeros(blocks, dtype=bool)
        for question, dropped in asked:
            span = slice(
                (question.needed.start - dropped) // size, (question.needed.stop - 1 - dropped) // size + 1
            )
            (raw if rng.random() < spec.evidence_raw else folded)[span] = True
        free = np.flatnonzero(~raw & ~folded)
        raw[rng.permutation(free)[: max(0, most - int(raw.sum()))]] = True
        raw[max(0, blocks - spec.tail) :] = True
        return raw

    def _dialogue(self, asked: list[tuple[Question, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Questions and answers as ids, and which of the ids are an answer, with the newline that ends it."""
        if not asked:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
        encode = self.source.tokenizer.encode
        parts, said = [], []
        for question, _ in asked:
            prompt, answer = encode(question.prompt), encode(question.answer)
            parts += [prompt, answer]
            said += [np.zeros(len(prompt), dtype=bool), np.ones(len(answer), dtype=bool)]
        parts.append(self._newline)
        said.append(np.ones(len(self._newline), dtype=bool))
        return np.concatenate(parts), np.concatenate(said)
