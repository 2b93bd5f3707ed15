"""Every question of a history put to one arm: focus one by one, decode together, record each answer.

One line of JSON and one row of telemetry a question; of traced questions also what each focus step saw. A model that
says the steps to an answer can be asked in turns: each sentence that it says becomes part of the question, and the arm
looks again, with the whole budget anew, until a line without a sentence is the answer. Or it says them all from one
look: the control that tells what looking again is worth. All arms are asked alike. Deliberately ignorant of the task: a
question says itself whether a line answers it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from megacontext.evals.arms import Look, look
from megacontext.evals.histories import Case
from megacontext.index.addresses import AddressIndex
from megacontext.runtime.reading import Reading
from megacontext.runtime.run import RunFolder
from megacontext.runtime.steps import STEP_TOKENS, Saying
from megacontext.runtime.tracing import record_focus
from megacontext.spans import Span
from megacontext.tasks.asked import Asked

_SENTENCE_TOKENS = 24
"""Of an answer by a model that was never trained to say a value and nothing else."""
Aloud = Literal["no", "once", "again"]
"""Whether a model says steps before its answer: no, all from one look, or with another look after each."""
_STEPS_TOKENS = 200
"""Of all steps and the answer, where one look is to do for them."""


@dataclass
class _Asking:
    """One question on its way to an answer."""

    question: Asked
    saying: Saying
    answer: str | None = None
    cost: int = 0
    """Positions that the first token of a line attended to, at most."""
    hit: bool = True
    """Whether every turn had the evidence of that turn as tokens."""
    latency_ms: float = 0.0
    answer_s: float | None = None

    def evidence(self, aloud: Aloud) -> tuple[Span, ...]:
        """What this turn is to find."""
        steps = self.question.aloud
        if aloud != "again" or not steps:
            return self.question.needed
        return steps[min(len(self.saying.said), len(steps) - 1)].found

    def looked(self, one: Look) -> None:
        """Count what a look took and showed."""
        self.cost = max(self.cost, one.cost)
        self.hit &= one.hit
        self.latency_ms += one.latency_ms

    def hears(self, line: str, aloud: Aloud) -> None:
        """Take a line as the answer, or, where steps are said, as one of them or as all of them."""
        if aloud == "no":
            self.answer = line
        elif aloud == "once":
            *self.saying.said, self.answer = (part.strip() for part in re.split(r"(?<=\.)", line))
        elif not self.saying.takes(line):
            self.answer = line


def ask_all(
    case: Case,
    arm: str,
    run: RunFolder,
    *,
    traced: int = 0,
    aloud: Aloud = "no",
    about: Mapping[str, Any] | None = None,
    told: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Answers of `arm`, one row a question; `told` hears of each question that was answered.

    The focus steps of the first `traced` questions are recorded entry by entry, those of the first turn. `about` is
    added to each line of JSON.
    """
    encode = case.session.bundle.tokenizer.encode
    askings = [
        _Asking(question, Saying(encode(question.prompt), case.session)) for question in case.asked.questions
    ]
    while any(asking.answer is None for asking in askings):
        lines = _turn(case, arm, run, askings, traced, aloud)
        for asking, line in lines:
            asking.hears(line, aloud)
            if asking.answer is not None:
                told()
    rows = [_recorded(case, arm, run, number, asking, about or {}) for number, asking in enumerate(askings)]
    run.flush()
    return rows


def _turn(
    case: Case, arm: str, run: RunFolder, askings: list[_Asking], traced: int, aloud: Aloud
) -> list[tuple[_Asking, str]]:
    """A line for each question that has no answer yet."""
    session = case.session
    asked: list[_Asking] = []
    readings: list[Reading] = []
    lines: list[str] = []
    heads = 1
    for number, asking in enumerate(askings):
        if asking.answer is not None:
            continue
        began = time.perf_counter()
        needed = case.blocks_of(asking.evidence(aloud))
        one = look(session, arm, asking.saying.prompt, number=number, needed=needed)
        asking.looked(one)
        asked.append(asking)
        heads = len(one.readings)
        if session.decodes_alone:
            lines += session.decode(one.readings, max_tokens=_SENTENCE_TOKENS, heads=heads)
            asking.answer_s = time.perf_counter() - began
        else:
            readings += one.readings
        if asking.saying.said:
            continue
        if one.focuses:
            record_focus(
                run.telemetry,
                one.focuses[0].steps,
                history=case.name,
                arm=arm,
                question=number,
                budget_positions=session.config.budget,
                entries=number < traced,
            )
        if arm == "lensnet" and number < traced:
            _record_block_scores(case, asking.saying.prompt, number, run)
    if not session.decodes_alone:
        longest = {"no": {}, "once": {"max_tokens": _STEPS_TOKENS}, "again": {"max_tokens": STEP_TOKENS}}
        lines = session.decode(readings, heads=heads, **longest[aloud])
    return list(zip(asked, lines, strict=True))


def _recorded(
    case: Case, arm: str, run: RunFolder, number: int, asking: _Asking, about: Mapping[str, Any]
) -> dict[str, Any]:
    """One answer, in the telemetry, among the lines of JSON, and as a row."""
    question, answer = asking.question, asking.answer
    assert answer is not None
    row: dict[str, Any] = {
        "history": case.name,
        "arm": arm,
        "question": number,
        "kind": question.kind,
        "versions": question.versions,
        "depth": case.asked.depth(question),
        "expected": question.answer.strip(),
        "answered": answer,
        "correct": question.is_right(answer),
        "cost_positions": asking.cost,
        "hit": asking.hit,
    }
    run.telemetry.emit(
        "answer", **row, budget_positions=case.session.config.budget, latency_ms=asking.latency_ms
    )
    if asking.answer_s is not None:
        row["answer_s"] = asking.answer_s
    line: dict[str, Any] = {
        "prompt": question.prompt,
        "needed_blocks": list(case.blocks_of(question.needed)),
    }
    if asking.saying.said:
        line["said"] = asking.saying.said
    run.answer(row | line | dict(about))
    return row | {"group": case.history.group, "history_tokens": len(case.asked.ids)}


def _record_block_scores(case: Case, prompt: np.ndarray, number: int, run: RunFolder) -> None:
    """How well every block's address matches the question."""
    matches = AddressIndex.of(case.session.memory).matches(case.session.encoder.encode_question(prompt))
    blocks = len(matches)
    run.telemetry.emit_frame(
        "block_score",
        pl.DataFrame(
            {
                "history": [case.name] * blocks,
                "question": np.full(blocks, number),
                "block": np.arange(blocks),
                "score": matches.astype(np.float64),
            }
        ),
    )
