"""Steps that a model says on its way to an answer, each followed by another look.

A sentence that is said becomes part of the question, so the next look knows what the first could not: whom to look for
next. A line without a full stop is the answer. What is said takes room of the budget, so it may have half of it.

Which models say steps, and how they learnt it, is not known here (`tasks.aloud`).
"""

from __future__ import annotations

import numpy as np

from megacontext.runtime.session import Session

STEP_TOKENS = 40
"""Of one line, at most."""
MOST_STEPS = 12
"""After so many the next line counts as the answer, whatever it is: a chain of 6 hops takes 6."""


def said_room(budget: int) -> int:
    """Positions that a question and the steps that are said after it may take together."""
    return budget // 2


class Saying:
    """A question (P,) token ids, and the steps that were said since."""

    def __init__(self, question: np.ndarray, session: Session):
        self.prompt = question
        """int32 (P,): the question with its steps, what the next look is for."""
        self.said: list[str] = []
        """Steps, each without the blank before it."""
        self._session = session

    def takes(self, line: str) -> bool:
        """Take a line as the next step; False where it is the answer, or where there is no room for more steps."""
        sentence, stop, _ = line.partition(".")
        if not stop or len(self.said) >= MOST_STEPS:
            return False
        step = self._session.bundle.tokenizer.encode(f" {sentence}.")
        longer = np.concatenate((self.prompt, step))
        if self._session.prompt_cost(longer) > said_room(self._session.config.budget):
            return False
        self.prompt = longer
        self.said.append(sentence + stop)
        return True
