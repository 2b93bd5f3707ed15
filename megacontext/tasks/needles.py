"""The needle grid: facts at even depths, each asked for once, the others being its distractors.

Needle-in-a-haystack and passkey retrieval, with RULER's several keys. Every history is asked about as many needles
however long it is. Without more, a longer one has more text to miss them in, and a shorter one has them closer
together, so that more of what is read beside a needle is another needle; with `per_thousand`, further needles that
nobody asks for keep them as dense in every length. The depth of the history is divided into equal parts, and each part
gets as many that are asked for. No needle is ever superseded, and no two share a person.

Phrased in the sentences of `tasks.facts`, the ones that the tiny model was trained on, with names that it never saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from megacontext.errors import ConfigError
from megacontext.tasks.asked import Asked, AskedHistory, Background
from megacontext.tasks.facts import FactsConfig, ask, invent_keys, random_values, state
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Needles:
    """How many needles one history holds."""

    depths: int = 5
    """Parts of equal length that a history is divided into."""
    each: int = 5
    """Needles in each part that are asked for."""
    per_thousand: float = 0.0
    """Needles in 1,000 tokens of text, those that are asked for included; they are never fewer than those."""

    def __post_init__(self) -> None:
        if min(self.depths, self.each) < 1:
            raise ConfigError(
                f"needles need at least 1 depth and 1 needle each, got {self.depths} and {self.each}; raise them"
            )
        if self.per_thousand < 0:
            raise ConfigError(
                f"needles.per_thousand must not be negative, got {self.per_thousand}; 0 is for those asked for alone"
            )

    @property
    def asks(self) -> int:
        return self.depths * self.each

    def plant(
        self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> AskedHistory:
        count = max(self.asks, round(self.per_thousand * len(text.ids) / 1000))
        keys = invent_keys(rng, FactsConfig(keys=count, attributes_per_person=1), held_out=held_out)
        values = random_values(rng, count)
        bounds = np.linspace(0.0, 1.0, self.depths + 1)
        places = np.concatenate([text.draw(rng, self.each, low, high) for low, high in pairwise(bounds)])
        said = [state(rng, *key, value) for key, value in zip(keys, values, strict=True)]
        if count > self.asks:
            places = np.concatenate((places, text.draw(rng, count - self.asks)))
        order = np.argsort(places, kind="stable")
        ids, spans = text.with_sentences(places[order], [said[which] for which in order], tokenizer)
        stands = dict(zip(order.tolist(), spans, strict=True))
        questions = tuple(
            Asked(
                prompt=ask(rng, *keys[which]),
                answer=" " + values[which],
                needed=(stands[which],),
                kind="needle",
            )
            for which in range(self.asks)
        )
        return AskedHistory(ids, questions)
