"""One question put to a session, and the answer with what was read word for word for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from megacontext.focus.allocator import FocusStep
from megacontext.focus.context import WorkingContext
from megacontext.focus.rules import NO_RULES, Rules
from megacontext.runtime.session import Session
from megacontext.runtime.spelling import Spelling
from megacontext.runtime.steps import STEP_TOKENS, Saying
from megacontext.tasks.facts import as_prompt
from megacontext.tree.memory import Memory


@dataclass(frozen=True)
class Passage:
    """A stretch of the history that the model read word for word."""

    start: int
    """First token."""
    stop: int
    """One past the last."""
    text: str
    source: str = ""
    """Document and place in it, where the memory knows documents."""


def tell(
    session: Session,
    question: str,
    scorer: str | None = None,
    *,
    max_tokens: int = 32,
    rules: Rules = NO_RULES,
    looked: Callable[[FocusStep], None] = lambda step: None,
    said: Callable[[str], None] = lambda piece: None,
) -> dict[str, Any]:
    """Answer `question`, and say what was read for it, how many positions that took, and how long.

    `looked` hears of each focus step and `said` of each piece of the answer as they come; what either raises ends it.
    Raises BudgetError.
    """
    began = time.perf_counter()
    prompt = session.bundle.tokenizer.encode(as_prompt(question))
    focus = session.focus(prompt, scorer=scorer, rules=rules, told=looked)
    reading = session.read(focus.context, prompt)
    spelling = Spelling(session.bundle.tokenizer.decode)
    for token in session.decoding(reading, max_tokens=max_tokens):
        if piece := spelling.take(token):
            said(piece)
    if rest := spelling.rest():
        said(rest)
    return {
        "question": question,
        "answer": spelling.text.strip(),
        "positions": reading.cost,
        "tokens": session.memory.num_tokens,
        "seconds": time.perf_counter() - began,
        "passages": [asdict(one) for one in read_passages(focus.context, session.memory, session)],
    }


def tell_steps(session: Session, question: str, scorer: str | None = None) -> dict[str, Any]:
    """Answer `question` with a model that says steps: `tell`'s answer, and the steps, each with what was read for it.

    The positions are those of the costliest look. Raises BudgetError.
    """
    began = time.perf_counter()
    saying = Saying(session.bundle.tokenizer.encode(as_prompt(question)), session)
    steps: list[dict[str, Any]] = []
    positions = 0
    while True:
        focus = session.focus(saying.prompt, scorer=scorer)
        reading = session.read(focus.context, saying.prompt)
        positions = max(positions, reading.cost)
        line = session.decode([reading], max_tokens=STEP_TOKENS)[0]
        passages = [asdict(one) for one in read_passages(focus.context, session.memory, session)]
        if not saying.takes(line):
            break
        steps.append({"said": saying.said[-1], "passages": passages})
    return {
        "question": question,
        "steps": steps,
        "answer": line,
        "positions": positions,
        "tokens": session.memory.num_tokens,
        "seconds": time.perf_counter() - began,
        "passages": passages,
    }


def read_passages(context: WorkingContext, memory: Memory, session: Session) -> list[Passage]:
    """The raw entries of a context, neighbours joined, in time order; cut where a document ends."""
    raw = context.lod == 0
    starts = np.flatnonzero(raw & ~np.r_[False, raw[:-1]])
    stops = np.flatnonzero(raw & ~np.r_[raw[1:], False])
    spans = zip(context.start[starts].tolist(), context.stop[stops].tolist(), strict=True)
    passages = []
    for start, stop in spans:
        cited = [(one.span.start, one.span.stop, str(one)) for one in memory.cite(start, stop)]
        for first, last, source in cited or [(start, stop, "")]:
            text = session.bundle.tokenizer.decode(memory.tokens(first, last))
            passages.append(Passage(first, last, text, source))
    return passages
