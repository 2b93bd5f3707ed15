"""A process that opens a run's model and scores recorded steps with it: jobs as lines of JSON in, answers out.

A job names a run, a step and a scorer. The very context of that step is scored by that scorer, with the run's model,
memory and question, and the answer says:

- `scores`: one number per entry, and `edits`: what an allocator that remembers no cooldown would do on them;
- `reproduced`: of the scorer that the step was recorded with, how far its scores are from the recorded ones at most;
- `exact`: where the scorer gives every block a number, the context against the best one (`stores.yardstick`). The
  scorer `ADDRESSES` stands for the recorded cosines of addresses, which need no model;
- or `error`, a sentence.

It ends when whoever started it has ended. It reads and never writes. Deliberately ignorant of pages.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from megacontext.errors import ConfigError, MegaContextError
from megacontext.focus import AllocatorState, WorkingContext, plan
from workbench.stores.run import RunStore
from workbench.stores.steps import context_of, room_positions
from workbench.stores.yardstick import against_exact

if TYPE_CHECKING:
    from megacontext.runtime.session import Session

ADDRESSES = "addresses"
"""A yardstick that is no scorer: the cosine of each block's address with the question, as the run recorded it."""


class Step:
    """What a job is about: one recorded step, with all that the run's folder says of it. Raises ConfigError."""

    def __init__(self, store: RunStore, job: dict[str, Any]):
        self.store = store
        self.history, self.arm = str(job["history"]), str(job["arm"])
        self.question, self.step = int(job["question"]), int(job["step"])
        self.entries = store.entries(self.history, self.arm, self.question, self.step)
        size = store.block_size
        if self.entries.is_empty() or size is None:
            raise ConfigError("this step was not recorded entry by entry; choose a traced question")
        self.context = context_of(self.entries, size)
        rows = store.questions(self.history).filter(pl.col("question") == self.question).to_dicts()
        self.prompt = rows[0]["prompt"] if rows else None
        self.needed = tuple(rows[0]["needed_blocks"] or ()) if rows else ()

    @property
    def room(self) -> int:
        """Positions that the context might cost: the budget without the question, as far as the run tells."""
        steps = self.store.focus_steps(self.history, self.arm, self.question)
        answers = self.store.answers(self.history, self.question)
        return room_positions(steps, answers.filter(pl.col("arm") == self.arm))


class Rescorer:
    """Scores steps; keeps the run, the model and the memory that it used last."""

    def __init__(self) -> None:
        self._runs: dict[str, RunStore] = {}
        self._sessions: dict[tuple[str, str], Session] = {}

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """What the job asks for; a sentence under `error` where that cannot be had."""
        began = time.perf_counter()
        try:
            found = self._answer(job)
        except (MegaContextError, OSError) as problem:
            found = {"error": str(problem)}
        return found | {"took_s": time.perf_counter() - began}

    def close(self) -> None:
        """Let go of the memory."""
        for session in self._sessions.values():
            session.memory.close()
        self._sessions = {}

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        store = self._run(str(job["run"]))
        step, by = Step(store, job), str(job["by"])
        if by == ADDRESSES:
            worth = store.block_scores(step.history, step.question)["score"].to_numpy()
            return {"exact": _exact(step.context, worth, step.room)}
        return self._scored(store, step, by, Path(job["memory"]) if job["memory"] else None)

    def _run(self, path: str) -> RunStore:
        if path not in self._runs:
            self._runs = {path: RunStore(path)}
        else:
            self._runs[path].refresh()
        return self._runs[path]

    def _scored(self, store: RunStore, step: Step, by: str, path: Path | None) -> dict[str, Any]:
        from megacontext.scoring import SCORERS, BlockScorer, Question

        SCORERS.get(by)
        if not step.prompt:
            raise ConfigError(
                "a step is scored anew for the question that was asked, and this run did not write it down; "
                "compare with a recorded arm"
            )
        if path is None:
            raise ConfigError(
                "a step is scored anew over the memory of its history, and this run kept none; compare with a "
                "recorded arm"
            )
        session = self._session(store, path)
        memory, context = session.memory, step.context
        if memory.num_tokens != context.num_tokens:
            raise ConfigError(
                f"a step is scored anew over the history as it was, {context.num_tokens:,} tokens, and the memory has "
                f"{memory.num_tokens:,} now; compare with a recorded arm"
            )
        question = Question(
            number=step.question,
            ids=session.bundle.tokenizer.encode(step.prompt),
            needed_blocks=step.needed,
        )
        scorer = session.scorer(by)
        scores = np.asarray(scorer.ask(question)(context), dtype=np.float64)
        found: dict[str, Any] = {"scores": scores.tolist(), "edits": _edits(step, scores, session)}
        if by == step.arm:
            recorded = step.entries.sort("slot")["score"].cast(pl.Float64).to_numpy()
            found["reproduced"] = float(np.nanmax(np.abs(recorded - scores), initial=0.0))
        if isinstance(scorer, BlockScorer):
            worth = scorer.block_scores(question)
            found["exact"] = _exact(context, worth, step.room)
        return found

    def _session(self, store: RunStore, path: Path) -> Session:
        """The run's model over a memory, opened for reading."""
        key = str(store.path), str(path)
        if key not in self._sessions:
            self.close()
            self._sessions[key] = _open_session(store, path)
        return self._sessions[key]


def _open_session(store: RunStore, path: Path) -> Session:
    from megacontext.config import from_mapping
    from megacontext.runtime.encoding import BundleEncoder
    from megacontext.runtime.frozen.encoding import open_memory
    from megacontext.runtime.frozen.reader import FrozenReader, open_parts
    from megacontext.runtime.session import FocusConfig, Session
    from megacontext.tree import Memory

    recipe = store.recipe
    if not isinstance(name := recipe.get("model"), str):
        raise ConfigError(
            "scoring anew needs the model that the run was made with, and its recipe names none; compare with a "
            "recorded arm"
        )
    parts = open_parts(name, recipe.get("levels"))
    if isinstance(parts, FrozenReader):
        memory = open_memory(parts, path)
    else:
        encoder = BundleEncoder(parts)
        memory = Memory.open(path, encoder.identity(), encoder)
    try:
        config = from_mapping(FocusConfig, recipe.get("focus", {}), where=f"{store.path}/recipe.toml")
        return Session(parts, memory, config, seed=int(recipe.get("seed", 0)))
    except BaseException:
        memory.close()
        raise


def _edits(step: Step, scores: np.ndarray, session: Session) -> list[str]:
    """What the run's allocator would do on `scores`, cooldown aside: expand, collapse or nothing, (W,)."""
    edits = [""] * len(step.context)
    allocator = session.config.allocator
    if allocator.strategy == "exact" or step.context.cost > step.room:
        return edits
    planned = plan(step.context, scores, step.room, AllocatorState(), allocator)
    for edit in planned.edits:
        edits[edit.slot] = edit.kind
    return edits


def _exact(context: WorkingContext, worth: np.ndarray, room: int) -> dict[str, Any]:
    return asdict(against_exact(context, worth, room)) | {"room": room}


def main() -> None:
    """Answer jobs from standard input until it ends; nothing else is ever written to standard output."""
    os.nice(10)  # pages and whoever trains beside them come first
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(json.loads(line))
        # Whoever asked is gone: an answer that is being worked on is for nobody.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    rescorer = Rescorer()
    while True:
        answers.write(json.dumps(rescorer.answer(jobs.get())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
