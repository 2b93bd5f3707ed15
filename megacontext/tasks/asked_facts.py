"""Planted facts, some of them superseded, in the form that every task has.

The task itself is `tasks.facts`, whose sentences the tiny model was trained on, with other names. Needed is the last
statement of a fact: those before it are its strongest distractors, for they differ in nothing but value and order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from megacontext.spans import Span
from megacontext.tasks.asked import Asked, AskedHistory, Background, Look
from megacontext.tasks.facts import FactsConfig, PlantedHistory, Question, plant
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of one history."""

    facts: FactsConfig = field(default_factory=FactsConfig)

    @property
    def asks(self) -> int:
        return self.facts.keys

    def plant(
        self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> AskedHistory:
        return as_asked(plant(text.ids, tokenizer, self.facts, rng, held_out=held_out))


def as_asked(planted: PlantedHistory) -> AskedHistory:
    """Questions about facts, as questions of any task; the kinds are plain and superseded."""
    return AskedHistory(planted.ids, tuple(map(_asked, planted.questions)))


def _asked(question: Question) -> Asked:
    *older, last = (Span(statement.start, statement.stop) for statement in question.statements)
    return Asked(
        prompt=question.prompt,
        answer=question.answer,
        needed=(last,),
        kind="superseded" if question.superseded else "plain",
        versions=len(question.statements),
        path=(Look(found=(last,), alike=tuple(older)),),
    )
