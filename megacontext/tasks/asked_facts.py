"""Planted facts, some of them superseded, in the form that every task has.

The task itself is `tasks.facts`, whose sentences the tiny model was trained on, with other names. Needed is the last
statement of a fact: those before it are its strongest distractors, for they differ in nothing but value and order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from megacontext.spans import Span
from megacontext.tasks.asked import Asked, AskedHistory, Background
from megacontext.tasks.facts import FactsConfig, PlantedHistory, plant
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of one history."""

    facts: FactsConfig = field(default_factory=FactsConfig)

    @property
    def asks(self) -> int:
        return self.facts.keys

    def plant(self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator) -> AskedHistory:
        return as_asked(plant(text.ids, tokenizer, self.facts, rng))


def as_asked(planted: PlantedHistory) -> AskedHistory:
    """Questions about facts, as questions of any task; the kinds are plain and superseded."""
    questions = tuple(
        Asked(
            prompt=question.prompt,
            answer=question.answer,
            needed=(Span(question.needed.start, question.needed.stop),),
            kind="superseded" if question.superseded else "plain",
            versions=len(question.statements),
        )
        for question in planted.questions
    )
    return AskedHistory(planted.ids, questions)
