"""What every task comes to: a history, and questions whose evidence stands in known places of it.

A task is a frozen dataclass that plants itself into a `Background`, a stretch of text of which it is known where its
sentences end. The same generator state gives the same history. Answers count by exact match of the whole line; where
a task has a closed set of labels, an answer is right when it names the right label and no other one, those that the
question names left aside (as BABILong scores bAbI's questions).

Deliberately knows nothing of trees, contexts or models: token ids in, token ids and questions out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megacontext.errors import ConfigError
from megacontext.spans import Span
from megacontext.tasks.facts import sentence_gaps
from megacontext.tasks.splicing import spliced
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Look:
    """One step of finding the evidence: what a question leads to, alone or together with evidence read before."""

    read: Span | None = None
    """The evidence whose text leads on; None where the question alone does."""
    found: tuple[Span, ...]
    """What counts."""
    alike: tuple[Span, ...] = ()
    """What speaks of the same and does not count, as older statements do: only its place tells it from what counts."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question about a history."""

    prompt: str
    answer: str
    """What follows the prompt directly, with the blank before it."""
    needed: tuple[Span, ...]
    """Tokens of the history that hold the evidence, in time order. Without any of them there is no answer."""
    kind: str
    """What sort of question within its task."""
    versions: int = 1
    """Statements that compete for the answer by their order."""
    labels: tuple[str, ...] = ()
    """All answers that the task knows; empty where only the exact line counts."""
    path: tuple[Look, ...] = ()
    """How the evidence is found, the look of the question alone first; empty where that one finds all of it."""
    aloud: tuple[Look, ...] = ()
    """How it is found by one who says each step: every look but the last finds one sentence, which is said and so is
    part of the question from then on; the last finds what the answer stands in. Empty where nothing is to be said."""

    @property
    def looks(self) -> tuple[Look, ...]:
        """The path, with a look that finds nothing from each needed span that leads no further."""
        path = self.path or (Look(found=self.needed),)
        leading = {look.read for look in path}
        return (*path, *(Look(read=span, found=()) for span in self.needed if span not in leading))

    def is_right(self, answered: str) -> bool:
        """Whether a line that a model wrote counts."""
        expected = self.answer.strip()
        if not self.labels:
            return answered == expected
        in_question = _words(self.prompt)
        first = _words(answered.split(".")[0])
        return {label for label in self.labels if label in first and label not in in_question} == {expected}


@dataclass(frozen=True)
class AskedHistory:
    """Token ids (T,) int32 of a text with a task planted in it, and the questions about it."""

    ids: np.ndarray
    questions: tuple[Asked, ...]

    def depth(self, question: Asked) -> float:
        """Where the oldest evidence stands: 0 = at the beginning, 1 = at the end."""
        return question.needed[0].start / max(1, len(self.ids))


@dataclass(frozen=True)
class Background:
    """A stretch of text: token ids (T,) int32, and the positions (G,) where a sentence has just ended."""

    ids: np.ndarray
    gaps: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, tokenizer: Tokenizer) -> Background:
        """Look for the sentence ends of a text, once."""
        return cls(ids, sentence_gaps(ids, tokenizer))

    def stretch(self, start: int, tokens: int) -> Background:
        """Tokens [start, start + tokens)."""
        first, last = np.searchsorted(self.gaps, [start + 1, start + tokens])
        return Background(self.ids[start : start + tokens], self.gaps[first:last] - start)

    def draw(self, rng: np.random.Generator, count: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """`count` places for sentences, drawn uniformly from those between two depths, in ascending order.

        Of a text without any token all sentences follow one another. Raises ConfigError where there is no place.
        """
        if not len(self.ids):
            return np.zeros(count, dtype=np.int64)
        first, last = np.searchsorted(self.gaps, [low * len(self.ids), high * len(self.ids)])
        if first == last:
            raise ConfigError(
                f"a text must have a sentence end between {low:.0%} and {high:.0%} of its length to plant at, got none "
                f"in {len(self.ids):,} tokens; give a longer text"
            )
        return np.sort(rng.choice(self.gaps[first:last], size=count))

    def with_sentences(
        self, places: np.ndarray, sentences: list[str], tokenizer: Tokenizer
    ) -> tuple[np.ndarray, list[Span]]:
        """The text with sentence i at `places[i]`, and the span of each."""
        return spliced(self.ids, places, [tokenizer.encode(sentence) for sentence in sentences])


class Task(Protocol):
    """A task's configuration, which can plant the task."""

    @property
    def asks(self) -> int:
        """How many questions `plant` puts to one history."""
        ...

    def plant(
        self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> AskedHistory:
        """The text with the task in it. Raises ConfigError for a text without room for it.

        `held_out`: with the names that are kept for evaluation; else with those of training.
        """
        ...


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))
