"""Questions answered step by step: each sentence that leads on is said, and then the next is looked for.

A chain that no single look can follow, and that a small model cannot follow silently, falls apart into steps that are
each one recall: what is said becomes part of the question (after scratchpads, Nye et al. 2021, and chains of thought,
Wei et al. 2022; that a retriever asks again with what was said is IRCoT's, Trivedi et al. 2023). A step is the
history's own sentence, word for word, so that saying it is copying; the last sentence is not said, the answer follows
instead.

A question that needs no steps stays what it is. Deliberately knows nothing of models or of when to look again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from megacontext.tasks.asked import Asked, AskedHistory, Background, Task
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Aloud:
    """A task whose steps are said."""

    task: Task
    turns: bool = False
    """Each step is a question of its own, to be found by what was said before; else the answer holds them all."""

    @property
    def asks(self) -> int:
        """Of the questions; turns are more."""
        return self.task.asks

    def plant(
        self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> AskedHistory:
        planted = self.task.plant(text, tokenizer, rng, held_out=held_out)
        questions: list[Asked] = []
        for question in planted.questions:
            steps = steps_of(planted, question, tokenizer)
            if self.turns:
                questions += _turns(question, steps)
            else:
                questions.append(replace(question, answer="".join(steps) + question.answer))
        return AskedHistory(planted.ids, tuple(questions))


def steps_of(planted: AskedHistory, question: Asked, tokenizer: Tokenizer) -> tuple[str, ...]:
    """What is said before the answer, sentence by sentence, each with the blank before it."""
    said = (look.found[0] for look in question.aloud[:-1])
    return tuple(tokenizer.decode(planted.ids[span.start : span.stop]) for span in said)


def _turns(question: Asked, steps: tuple[str, ...]) -> Iterator[Asked]:
    """A question for each look, behind what was said by then."""
    if not question.aloud:
        yield question
        return
    for number, (look, says) in enumerate(zip(question.aloud, (*steps, question.answer), strict=True)):
        yield replace(
            question,
            prompt=question.prompt + "".join(steps[:number]),
            answer=says,
            needed=look.found,
            path=(look,),
            aloud=(),
        )
