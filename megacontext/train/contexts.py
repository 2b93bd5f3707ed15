"""Training examples for base and GistNet: working contexts over short histories with a task planted in them.

Each example is a stretch of a training book with a task's sentences in it, cut into blocks of K tokens; some blocks
stay raw, the others are shown as LOD1 gists; what was said before may stand in front as LOD2 gists; questions and their
answers follow as the prompt. The blocks that hold needed evidence are raw, as after a successful refocus; the rest of
the raw ones are drawn at random. Which tasks, and in which shares, is the stage's to say; here they are all the same.

The target of every position is the token that follows its span on the timeline: of a raw token the next token, of
a gist the first token after its block. Nothing at or before a position's span end is ever its target.
Deliberately knows nothing of models: numpy arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.models.positions import PositionPolicy, entry_positions
from megacontext.spans import Span
from megacontext.tasks.asked import Asked, AskedHistory, Background, Task
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.facts import FactsConfig, PlantedHistory, ask, invent_keys, plant, random_values, state
from megacontext.tasks.mixture import TaskShare, draw_task
from megacontext.tokenizer import Tokenizer

IGNORED = -1
"""Target of a position that has none."""
_TRIES = 100
"""Stretches looked at for one with a sentence end: in prose the first one has dozens."""


@dataclass(frozen=True, kw_only=True)
class ContextSpec:
    """The shape of the examples of one curriculum stage."""

    min_blocks: int
    """Fewest full blocks of history; the length is drawn uniformly up to `max_blocks`. Of tasks it counts the text
    alone: what is planted comes on top, for a world that is cut short can no longer be asked about."""
    max_blocks: int
    max_raw: int
    """Blocks shown as raw tokens at most; the others are gists. At least those that answer the questions are raw."""
    questions: int
    """Questions asked at most, one after another."""
    keys: int = 0
    """Facts planted, where the examples are of facts alone."""
    coarse: int = 0
    """LOD2 gists at most in front, each of the K * K tokens before."""
    tasks: tuple[TaskShare, ...] = ()
    """What is planted instead, one task an example."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_blocks <= self.max_blocks:
            raise ConfigError(
                f"contexts need 1 <= min_blocks <= max_blocks, got {self.min_blocks} and {self.max_blocks}"
            )
        if self.questions < 1 or min(self.max_raw, self.coarse) < 0:
            raise ConfigError(
                "contexts need questions of at least 1, max_raw and coarse of at least 0, got "
                f"{self.questions}, {self.max_raw} and {self.coarse}"
            )
        check_planted(self.keys, self.tasks, "contexts")

    def task(self, rng: np.random.Generator) -> Task:
        """What the next example is about."""
        if self.tasks:
            return draw_task(self.tasks, rng)
        attributes = int(rng.integers(1, 4))
        return Facts(facts=FactsConfig(keys=self.keys, max_versions=3, attributes_per_person=attributes))

    def stretch_tokens(self, block_size: int) -> int:
        """Tokens of a book that an example may need."""
        return (self.max_blocks + self.coarse * block_size) * block_size


def check_planted(keys: int, tasks: tuple[TaskShare, ...], where: str) -> None:
    """Raises ConfigError unless either facts or a mixture of tasks are named."""
    if (keys < 1) != bool(tasks):
        raise ConfigError(
            f"{where} need keys of at least 1 or tasks, and not both, got keys {keys} and {len(tasks)} tasks; "
            "leave one out"
        )


@dataclass(frozen=True)
class ContextBatch:
    """Padded examples. W is the longest of the batch; padding is on the right and never a target."""

    ids: np.ndarray
    """int64 (B, W): token id, or -1 where a gist or padding stands."""
    targets: np.ndarray
    """int64 (B, W): the token after the entry's span, or IGNORED."""
    is_answer: np.ndarray
    """bool (B, W): the target is part of an answer."""
    positions: np.ndarray
    """float64 (B, W): where each entry stands, by the sampler's policy."""
    gist_slots: np.ndarray
    """int64 (G, 2): row and column of each gist."""
    gist_tokens: np.ndarray
    """int64 (G, K): the tokens that each LOD1 gist stands for, in the order of `gist_slots`."""
    coarse_slots: np.ndarray
    """int64 (C, 2): row and column of each LOD2 gist."""
    coarse_tokens: np.ndarray
    """int64 (C, K, K): the tokens that each LOD2 gist stands for, block by block."""


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """The random lengths that the examples of one batch share."""

    num_tokens: int
    whole: bool
    """Whether the history keeps what makes it longer than `num_tokens`."""
    raw: int
    questions: int
    coarse: int


@dataclass(frozen=True)
class _Example:
    """One row of a batch before padding; fields as in ContextBatch."""

    ids: np.ndarray
    targets: np.ndarray
    is_answer: np.ndarray
    positions: np.ndarray
    gist_columns: np.ndarray
    gist_tokens: np.ndarray
    coarse_tokens: np.ndarray


class ContextSampler:
    """Draws examples from token ids of whole books. The same generator state gives the same examples."""

    def __init__(
        self,
        books: list[np.ndarray],
        tokenizer: Tokenizer,
        block_size: int,
        positions: PositionPolicy = "context",
    ):
        self.books = books
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.positions = positions
        sizes = np.array([len(book) for book in books], dtype=np.float64)
        self._shares = sizes / sizes.sum()
        self._newline = tokenizer.encode("\n")

    def asked(
        self, rng: np.random.Generator, num_tokens: int, task: Task, before: int = 0
    ) -> tuple[AskedHistory, np.ndarray]:
        """A stretch of `num_tokens` of a random book with a task planted, and the `before` tokens in front of it.

        Only names that evaluation never uses. Raises ConfigError when the books have no sentences, or are too short.
        """
        stretch, front = self._stretch(rng, num_tokens, before)
        return task.plant(stretch, self.tokenizer, rng, held_out=False), front

    def history(
        self, rng: np.random.Generator, num_tokens: int, facts: FactsConfig, before: int = 0
    ) -> tuple[PlantedHistory, np.ndarray]:
        """The same with facts, as `tasks.facts` has them."""
        stretch, front = self._stretch(rng, num_tokens, before)
        return plant(stretch.ids, self.tokenizer, facts, rng, held_out=False), front

    def _stretch(
        self, rng: np.random.Generator, num_tokens: int, before: int
    ) -> tuple[Background, np.ndarray]:
        for _ in range(_TRIES):
            book = self.books[self._draw_book(rng)]
            start = before + int(rng.integers(max(1, len(book) - num_tokens - before)))
            stretch = Background.of(book[start : start + num_tokens], self.tokenizer)
            if len(stretch.gaps):
                return stretch, book[start - before : start]
        raise ConfigError(
            f"training books must have sentences to put facts between, {_TRIES} stretches of {num_tokens:,} tokens "
            f"with {before:,} before them had none; give longer books, in prose"
        )

    def _draw_book(self, rng: np.random.Generator) -> int:
        """Index of a book, drawn by length."""
        return int(rng.choice(len(self.books), p=self._shares))

    def batch(self, rng: np.random.Generator, size: int, spec: ContextSpec) -> ContextBatch:
        """`size` examples by `spec`, padded to the longest.

        Examples of one batch share the lengths that are drawn at random, so that little of it is padding.
        """
        shape = _Shape(
            num_tokens=int(
                rng.integers(spec.min_blocks * self.block_size, spec.max_blocks * self.block_size + 1)
            ),
            whole=bool(spec.tasks),
            raw=int(rng.integers(spec.max_raw + 1)),
            questions=int(rng.integers(1, spec.questions + 1)),
            coarse=int(rng.integers(spec.coarse + 1)),
        )
        rows = [self._example(rng, spec.task(rng), shape) for _ in range(size)]
        width = max(len(row.ids) for row in rows)
        ids = np.full((size, width), -1, dtype=np.int64)
        targets = np.full((size, width), IGNORED, dtype=np.int64)
        is_answer = np.zeros((size, width), dtype=bool)
        positions = np.zeros((size, width))
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = row.ids
            targets[number, : len(row.ids)] = row.targets
            is_answer[number, : len(row.ids)] = row.is_answer
            positions[number, : len(row.ids)] = row.positions
        return ContextBatch(
            ids,
            targets,
            is_answer,
            positions,
            _slots([row.gist_columns for row in rows]),
            np.concatenate([row.gist_tokens for row in rows]).astype(np.int64),
            _slots([np.arange(len(row.coarse_tokens)) for row in rows]),
            np.concatenate([row.coarse_tokens for row in rows]).astype(np.int64),
        )

    def _example(self, rng: np.random.Generator, task: Task, shape: _Shape) -> _Example:
        size, coarse = self.block_size, shape.coarse
        planted, before = self.asked(rng, shape.num_tokens, task, before=coarse * size * size)
        kept = len(planted.ids) if shape.whole else shape.num_tokens
        # The task made the stretch longer: what is in front of its last `kept` tokens moves into the LOD2 gists.
        known_past = np.concatenate((before, planted.ids))[-(len(before) + kept) :]
        before, timeline = known_past[: len(before)], known_past[len(before) :]
        dropped = len(planted.ids) - len(timeline)
        known = [question for question in planted.questions if question.needed[0].start >= dropped]
        asked = [known[which] for which in rng.permutation(len(known))[: shape.questions]]

        blocks = len(timeline) // size
        raw = np.zeros(blocks, dtype=bool)
        for span in (span for question in asked for span in question.needed):
            raw[blocks_of(Span(span.start - dropped, span.stop - dropped), size)] = True
        spare = max(0, shape.raw - int(raw.sum()))
        raw[rng.permutation(np.flatnonzero(~raw))[:spare]] = True

        prompt, answer_mask = self._dialogue(asked)
        whole = np.concatenate((timeline, prompt))
        answers = np.concatenate((np.zeros(len(timeline), dtype=bool), answer_mask))
        is_raw = np.ones(len(whole), dtype=bool)
        is_raw[: blocks * size] = np.repeat(raw, size)
        # A gist takes the place of its block's last token: that is where its span ends.
        gist_ends = np.flatnonzero(~raw) * size + size - 1
        keep = is_raw.copy()
        keep[gist_ends] = True
        places = np.flatnonzero(keep)
        # The last LOD2 gist is followed by the stretch's first token; of the others the follower is not in `whole`.
        front = np.full(coarse, IGNORED)
        front[-1:] = whole[0]
        coarse_start = np.arange(-coarse, 0) * size * size
        start = np.concatenate((coarse_start, np.where(is_raw[places], places, places - size + 1)))
        stop = np.concatenate((coarse_start + size * size, places + 1))
        return _Example(
            ids=np.concatenate((np.full(coarse, -1), np.where(is_raw, whole, -1)[places])),
            targets=np.concatenate((front, np.append(whole[1:], IGNORED)[places])),
            is_answer=np.concatenate((np.zeros(coarse, dtype=bool), np.append(answers[1:], False)[places])),
            positions=entry_positions(start, stop, self.positions),
            gist_columns=coarse + np.searchsorted(places, gist_ends),
            gist_tokens=timeline[: blocks * size].reshape(blocks, size)[~raw],
            coarse_tokens=before.reshape(coarse, size, size),
        )

    def _dialogue(self, asked: list[Asked]) -> tuple[np.ndarray, np.ndarray]:
        """Questions and answers as ids, and which of the ids are an answer (with the newline that ends it)."""
        parts, masks = [], []
        for question in asked:
            prompt, answer = self.tokenizer.encode(question.prompt), self.tokenizer.encode(question.answer)
            parts += [prompt, answer]
            masks += [np.zeros(len(prompt), dtype=bool), np.ones(len(answer), dtype=bool)]
        parts.append(self._newline)
        masks.append(np.ones(len(self._newline), dtype=bool))
        return np.concatenate(parts), np.concatenate(masks)


def blocks_of(span: Span, block_size: int) -> slice:
    """The blocks that a span of tokens runs through."""
    return slice(span.start // block_size, (span.stop - 1) // block_size + 1)


def _slots(columns: list[np.ndarray]) -> np.ndarray:
    """Row and column (n, 2) of entries given by their columns row by row."""
    rows = np.repeat(np.arange(len(columns)), [len(row) for row in columns])
    return np.stack((rows, np.concatenate(columns).astype(np.int64)), axis=1)


def vocabulary_texts(books: list[str], rng: np.random.Generator, sentences: int) -> list[str]:
    """What the vocabulary is learnt from: the training books, and facts and questions as training will show them."""
    keys = invent_keys(rng, FactsConfig(keys=sentences, attributes_per_person=1), held_out=False)
    values = [random_values(rng, 1)[0] for _ in keys]
    said = [
        state(rng, *key, value) + ask(rng, *key) + f" {value}"
        for key, value in zip(keys, values, strict=True)
    ]
    return [*books, "".join(said)]
