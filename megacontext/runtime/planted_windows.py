"""Windows whose last tokens ask for facts that stand in the distant part: text in which a tiny model has headroom.

Plain text tells a small base little that the last 64 tokens do not; a planted fact is told once, in the distant part,
and the questions at the end cannot be answered without it. Everything else is a window of prose: facts between its
sentences, raw tokens behind them, and only the tokens of answers are scored, each with at least `raw_tokens` before it.

Facts whose statement the end of the distant part cuts are not asked for. Names and values: `tasks.facts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.runtime.embedding_windows import EmbeddingWindow
from megacontext.tasks.facts import FactsConfig, plant, sentence_gaps
from megacontext.tokenizer import Tokenizer

_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class PlantedConfig:
    """How much is planted in the distant part, and asked."""

    keys: int = 6
    """Facts, each told once."""
    questions: int = 4
    """Asked at the end, at most: as many as fit the scored tokens."""

    def __post_init__(self) -> None:
        if min(self.keys, self.questions) < 1:
            raise ConfigError(
                f"planted windows need keys and questions of at least 1, got {self.keys} and {self.questions}; "
                f"raise them"
            )


@dataclass(frozen=True)
class PlantedWindow:
    """Token ids int64 (tokens,) of a window, and which of its scored tokens, bool (scored,), are of an answer."""

    ids: np.ndarray
    answers: np.ndarray


def planted_window(
    window: EmbeddingWindow,
    books: Sequence[np.ndarray],
    tokenizer: Tokenizer,
    config: PlantedConfig,
    rng: np.random.Generator,
    *,
    held_out: bool,
) -> PlantedWindow:
    """A window in a random stretch of a random book. `held_out`: with names that training never draws.

    Raises ConfigError for books without sentences or without room, and scored tokens that hold no question.
    """
    wanted, near = window.tokens, window.raw_tokens + window.scored_tokens
    places = np.array([max(0, len(book) - wanted + 1) for book in books], dtype=np.float64)
    if not places.sum():
        raise ConfigError(
            f"a planted window takes {wanted:,} tokens and no book is as long; name a longer one"
        )
    facts = FactsConfig(keys=config.keys, superseded_share=0.0, attributes_per_person=int(rng.integers(1, 4)))
    for _ in range(_TRIES):
        book = books[rng.choice(len(books), p=places / places.sum())]
        start = int(rng.integers(len(book) - wanted + 1))
        stretch = book[start : start + wanted]
        if not len(sentence_gaps(stretch[: window.distant_tokens], tokenizer)):
            continue
        planted = plant(stretch[: window.distant_tokens], tokenizer, facts, rng, held_out=held_out)
        distant = planted.ids[: window.distant_tokens]
        known = [one for one in planted.questions if one.needed.stop <= window.distant_tokens]
        tail, mask = _dialogue(known, rng, tokenizer, config.questions, window.scored_tokens)
        if not len(tail):
            continue
        between = stretch[window.distant_tokens :][: near - len(tail)]
        answers = np.zeros(window.scored_tokens, dtype=bool)
        answers[-len(mask) :] = mask
        return PlantedWindow(np.concatenate((distant, between, tail)).astype(np.int64), answers)
    raise ConfigError(
        f"planted windows need sentences to put facts between and {window.scored_tokens} scored tokens that hold a "
        f"question, {_TRIES} stretches gave none; give prose, or raise scored_tokens"
    )


def _dialogue(
    known: list, rng: np.random.Generator, tokenizer: Tokenizer, questions: int, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Questions and answers as ids, as many as fit into `room` tokens, and which of the ids are an answer's."""
    parts: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    newline = tokenizer.encode("\n")
    taken = len(newline)
    for which in rng.permutation(len(known))[:questions]:
        prompt, answer = tokenizer.encode(known[which].prompt), tokenizer.encode(known[which].answer)
        if taken + len(prompt) + len(answer) > room:
            continue
        taken += len(prompt) + len(answer)
        parts += [prompt, answer]
        masks += [np.zeros(len(prompt), dtype=bool), np.ones(len(answer), dtype=bool)]
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=bool)
    return np.concatenate([*parts, newline]), np.concatenate([*masks, np.zeros(len(newline), dtype=bool)])
