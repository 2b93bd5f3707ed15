"""What a refocus did, as telemetry: a row for each step, and where it is wanted a row for each entry of each step.

Evaluations record the questions that they trace and sessions that go on every refocus, in the same kinds, so that
whoever replays a focus need not know which of the two it was. Deliberately ignorant of scorers and of what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from megacontext.focus import FocusStep, Reason
from megacontext.telemetry import Telemetry


def record_focus(
    telemetry: Telemetry,
    steps: Sequence[FocusStep],
    *,
    history: str,
    arm: str,
    question: int,
    budget_positions: int,
    entries: bool = True,
) -> None:
    """One `focus` row a step; with `entries` also one `entry` row for each entry of each step.

    `budget_positions` is what context and question may cost together, as everywhere in telemetry.
    """
    for at, step in enumerate(steps):
        expanded = sum(edit.kind == "expand" for edit in step.edits)
        telemetry.emit(
            "focus",
            history=history,
            arm=arm,
            question=question,
            step=at,
            entries=len(step.context),
            cost_positions=step.context.cost,
            budget_positions=budget_positions,
            expanded=expanded,
            collapsed=len(step.edits) - expanded,
            refused=step.refused,
            score_max=float(step.scores.max(initial=-1.0)),
            latency_ms=step.latency_ms,
        )
        if entries:
            telemetry.emit_frame("entry", entry_rows(step, history, arm, question, at))


def entry_rows(step: FocusStep, history: str, arm: str, question: int, at: int) -> pl.DataFrame:
    """One row for each entry of the context that a step saw, with the columns of telemetry's kind `entry`."""
    context, count = step.context, len(step.context)
    edits = np.full(count, "", dtype=object)
    for edit in step.edits:
        edits[edit.slot] = edit.kind
    return pl.DataFrame(
        {
            "history": [history] * count,
            "arm": [arm] * count,
            "question": np.full(count, question),
            "step": np.full(count, at),
            "slot": np.arange(count),
            "lod": context.lod,
            "index": context.index,
            "start": context.start,
            "stop": context.stop,
            "cost_positions": context.costs,
            "score": step.scores,
            "edit": edits.tolist(),
            "reason": [Reason(code).name for code in step.reasons.tolist()],
        },
        schema_overrides={"edit": pl.String(), "reason": pl.String()},
    )
