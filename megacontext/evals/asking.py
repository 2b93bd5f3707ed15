"""Every question of a history put to one arm: focus one by one, decode together, record each answer.

One line of JSON and one row of telemetry a question; of traced questions also what each focus step saw. Deliberately
ignorant of the task: a question says itself whether a line answers it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from megacontext.evals.arms import look
from megacontext.evals.histories import Case
from megacontext.index.addresses import AddressIndex
from megacontext.runtime.reading import Reading
from megacontext.runtime.run import RunFolder
from megacontext.runtime.tracing import record_focus

_SENTENCE_TOKENS = 24
"""Of an answer by a model that was never trained to say a value and nothing else."""


def ask_all(
    case: Case,
    arm: str,
    run: RunFolder,
    *,
    traced: int = 0,
    about: Mapping[str, Any] | None = None,
    told: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Answers of `arm`, one row a question; `told` hears of each question that was focused.

    The focus steps of the first `traced` questions are recorded entry by entry. `about` is added to each line of JSON.
    """
    session, tokenizer = case.session, case.session.bundle.tokenizer
    questions = case.asked.questions
    taken: list[dict[str, Any]] = []
    readings: list[Reading] = []
    said: list[str] = []
    heads = 1
    for number, question in enumerate(questions):
        began = time.perf_counter()
        prompt = tokenizer.encode(question.prompt)
        one = look(session, arm, prompt, number=number, needed=case.needed_blocks(question))
        taken.append({"cost_positions": one.cost, "hit": one.hit, "latency_ms": one.latency_ms})
        heads = len(one.readings)
        if session.decodes_alone:
            said += session.decode(one.readings, max_tokens=_SENTENCE_TOKENS, heads=heads)
            taken[-1]["answer_s"] = time.perf_counter() - began
        else:
            readings += one.readings
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
            _record_block_scores(case, prompt, number, run)
        told()
    said = said or session.decode(readings, heads=heads)
    rows = []
    for number, (question, spent, answer) in enumerate(zip(questions, taken, said, strict=True)):
        latency_ms = spent.pop("latency_ms")
        row = {
            "history": case.name,
            "arm": arm,
            "question": number,
            "kind": question.kind,
            "versions": question.versions,
            "depth": case.asked.depth(question),
            "expected": question.answer.strip(),
            "answered": answer,
            "correct": question.is_right(answer),
            "cost_positions": spent["cost_positions"],
            "hit": spent["hit"],
        }
        run.telemetry.emit("answer", **row, budget_positions=session.config.budget, latency_ms=latency_ms)
        line = {"prompt": question.prompt, "needed_blocks": list(case.needed_blocks(question))}
        run.answer(row | spent | line | dict(about or {}))
        rows.append(row | spent | {"group": case.history.group, "history_tokens": len(case.asked.ids)})
    run.flush()
    return rows


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
