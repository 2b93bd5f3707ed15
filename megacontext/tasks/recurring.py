"""One fact in a text, said again and again, each time further from the last than a window reaches.

Where all that is known of the fact stands far back, the loss on its value tells whether a model sees that far, and with
what detail: the first value of a text cannot be known, and every later one can. Sentences and names are those of
`tasks.facts`; of the value's 64 x 64 pairs of words each is as likely. Nobody is asked anything, so this is a text to
train a language model on.

Deliberately knows nothing of windows or models: token ids in, token ids and where the values stand out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.spans import Span
from megacontext.tasks.facts import FactsConfig, invent_keys, random_values, sentence_gaps, state
from megacontext.tasks.splicing import spliced
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True)
class RecurringText:
    """Token ids (T,) int32, and the tokens of the value in each sentence that says it, in time order."""

    ids: np.ndarray
    values: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class Recurring:
    """How far apart the fact is said."""

    gap: int = 80
    """Tokens between two sentences that say it, at least; the next end of a sentence is taken from there on."""

    def __post_init__(self) -> None:
        if self.gap < 1:
            raise ConfigError(
                f"a fact recurs after a gap of at least 1 token, got {self.gap}; raise recurring.gap"
            )

    def plant(
        self, ids: np.ndarray, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> RecurringText:
        """Put one fact into a text (T,) wherever it is due. Raises ConfigError where no sentence ends."""
        (key,) = invent_keys(rng, FactsConfig(keys=1, attributes_per_person=1), held_out=held_out)
        (value,) = random_values(rng, 1)
        places: list[int] = []
        for place in sentence_gaps(ids, tokenizer).tolist():
            if not places or place - places[-1] >= self.gap:
                places.append(place)
        if not places:
            raise ConfigError(
                f"a text must have a sentence end to plant a fact at, got none in {len(ids)} tokens; give a longer text"
            )
        said = [tokenizer.encode(state(rng, *key, value)) for _ in places]
        planted, spans = spliced(ids, places, said)
        word = tokenizer.encode(" " + value)
        values = [
            Span(span.start + at, span.start + at + len(word))
            for span, sentence in zip(spans, said, strict=True)
            for at in _found(word, sentence)
        ]
        assert len(values) == len(places)
        return RecurringText(planted, tuple(values))


def _found(word: np.ndarray, sentence: np.ndarray) -> list[int]:
    """Where `word` stands in `sentence`."""
    return [
        at
        for at in range(len(sentence) - len(word) + 1)
        if np.array_equal(sentence[at : at + len(word)], word)
    ]
