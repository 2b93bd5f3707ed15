"""Answers in sentences: what counts where a model was never trained to say a value and nothing else.

An answer is right when it names the value that is asked for and none of the others that the history holds, whatever
words stand around it. Letter case and punctuation say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from megacontext.tasks.asked import Asked, AskedHistory
from megacontext.tasks.asked_facts import as_asked
from megacontext.tasks.facts import PlantedHistory


@dataclass(frozen=True, kw_only=True)
class SpokenAsked(Asked):
    """A question that may be answered in a sentence."""

    values: tuple[str, ...]
    """All values of the history, superseded ones too."""

    def is_right(self, answered: str) -> bool:
        """Whether exactly the expected value is named."""
        return names_only(answered, self.answer.strip(), self.values)


def names_only(answered: str, expected: str, values: Sequence[str]) -> bool:
    """Whether an answer names the expected value and none other of `values`, in any letter case."""
    said = f" {_plain(answered)} "
    return {value for value in values if f" {_plain(value)} " in said} == {expected}


def as_spoken(planted: PlantedHistory) -> AskedHistory:
    """Questions about facts that may be answered in sentences."""
    asked = as_asked(planted)
    values = tuple(one.value for question in planted.questions for one in question.statements)
    questions = tuple(
        SpokenAsked(**{field.name: getattr(one, field.name) for field in fields(Asked)}, values=values)
        for one in asked.questions
    )
    return AskedHistory(asked.ids, questions)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower()))
