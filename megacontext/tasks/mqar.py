"""Associative recall with many keys: pairs of a key and a value in the history, queries in the working context.

Multi-query associative recall (Zoology, Arora et al. 2023), where a model with a state of fixed size needs as much
state as there are pairs. The history is the pairs alone, one after another, without any text between them; so few pairs
fit a budget as plain tokens, and what is measured there is plain attention.

Phrased in the sentences of `tasks.facts`, which the tiny model was trained on: a key is an invented person with an
attribute, a value a pair of words. Ignores the text that it is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.tasks.asked import Asked, AskedHistory, Background
from megacontext.tasks.facts import FactsConfig, ask, invent_keys, random_values, state
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Mqar:
    """How many pairs there are, and how many are asked for."""

    pairs: int = 64
    queries: int = 32
    """Pairs asked for at most, drawn without repetition."""

    def __post_init__(self) -> None:
        if min(self.pairs, self.queries) < 1:
            raise ConfigError(
                f"mqar needs at least 1 pair and 1 query, got {self.pairs} and {self.queries}; raise them"
            )

    @property
    def asks(self) -> int:
        return min(self.pairs, self.queries)

    def plant(
        self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> AskedHistory:
        keys = invent_keys(rng, FactsConfig(keys=self.pairs, attributes_per_person=1), held_out=held_out)
        values = random_values(rng, self.pairs)
        said = [state(rng, *key, value) for key, value in zip(keys, values, strict=True)]
        empty = Background(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64))
        ids, spans = empty.with_sentences(np.zeros(self.pairs, dtype=np.int64), said, tokenizer)
        chosen = np.sort(rng.choice(self.pairs, size=self.asks, replace=False)).tolist()
        questions = tuple(
            Asked(
                prompt=ask(rng, *keys[which]),
                answer=" " + values[which],
                needed=(spans[which],),
                kind="pair",
            )
            for which in chosen
        )
        return AskedHistory(ids, questions)
