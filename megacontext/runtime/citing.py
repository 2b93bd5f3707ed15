"""One question put to a session, and the answer with what was read word for word for it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from megacontext.focus.context import WorkingContext
from megacontext.runtime.session import Session
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
    session: Session, question: str, scorer: str | None = None, *, max_tokens: int = 32
) -> dict[str, Any]:
    """Answer `question`, and say what was read for it, how many positions that took, and how long.

    Raises BudgetError.
    """
    began = time.perf_counter()
    prompt = session.bundle.tokenizer.encode(as_prompt(question))
    focus = session.focus(prompt, scorer=scorer)
    reading = session.read(focus.context, prompt)
    answer = session.decode([reading], max_tokens=max_tokens)[0]
    return {
        "question": question,
        "answer": answer,
        "positions": reading.cost,
        "tokens": session.memory.num_tokens,
        "seconds": time.perf_counter() - began,
        "passages": [asdict(one) for one in read_passages(focus.context, session.memory, session)],
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
