"""Counting: how often something was said of a person, among the same things said of others.

After RULER's aggregation tasks (Hsieh et al. 2024): no single place holds the answer, all of them together do. Each
person of a history rings the bell another number of times, from once up; the answer is the number in words.

Not phrased in sentences that the tiny model knows; it was never trained to count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.tasks.asked import Asked, AskedHistory, Background
from megacontext.tasks.facts import FactsConfig, as_prompt, invent_keys
from megacontext.tokenizer import Tokenizer

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_EVENTS = (" {person} rang the bell.", " Then {person} rang the bell.", " The bell was rung by {person}.")


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How high one has to count."""

    most: int = 5
    """Persons in a history; they ring once, twice, and so on up to this number of times."""

    def __post_init__(self) -> None:
        if not 1 <= self.most <= len(NUMBERS):
            raise ConfigError(
                f"counting must go up to 1 .. {len(NUMBERS)}, got {self.most}; there are words for so many"
            )

    @property
    def asks(self) -> int:
        return self.most

    def plant(
        self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> AskedHistory:
        every = FactsConfig(keys=self.most, attributes_per_person=1)
        persons = [person for person, _ in invent_keys(rng, every, held_out=held_out)]
        owners = rng.permutation(np.repeat(np.arange(self.most), np.arange(self.most) + 1)).tolist()
        said = [_EVENTS[rng.integers(len(_EVENTS))].format(person=persons[owner]) for owner in owners]
        ids, spans = text.with_sentences(text.draw(rng, len(said)), said, tokenizer)
        questions = tuple(
            Asked(
                prompt=as_prompt(f"How many times did {person} ring the bell?"),
                answer=" " + NUMBERS[which],
                needed=tuple(span for span, owner in zip(spans, owners, strict=True) if owner == which),
                kind=NUMBERS[which],
                labels=NUMBERS,
            )
            for which, person in enumerate(persons)
        )
        return AskedHistory(ids, questions)
