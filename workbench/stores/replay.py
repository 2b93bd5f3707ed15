"""Recorded steps scored anew, without a page ever waiting: a process of its own works, answers are kept.

The process (`workbench.stores.rescoring`) is started with the first question and shared by all pages; opening a model
there neither stops the server nor grows it, and a memory stays opened once in each process. Answers are cached by run,
step and scorer. Where more is wished for than can be worked on, older wishes give way: whoever plays through sixty
steps wants the one that is shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from typing import Any, NamedTuple

from workbench.stores.rescoring import ADDRESSES

ANSWERS_KEPT = 400
WISHES_KEPT = 4
SENTENCES_KEPT_S = 30.0
"""How long a step that could not be scored is not tried again: a run that goes on may come to have what it lacked."""
SCORERS = (
    "recency", "sinks+recency", "random", "attention", "attention+bm25", "bm25", "bm25-last", "dense", "dense+bm25",
    "gist-attention", "gist-attention-beam", "infllm-style", "lensnet", "lensnet+bm25", "lensnet+bm25-last",
    "lensnet-hops", "oracle",
)  # fmt: skip
"""Scorers that a step may be scored with. Said here because the registry itself takes torch to import."""

__all__ = ["ADDRESSES", "SCORERS", "Replay", "Wish"]


class Wish(NamedTuple):
    """One recorded step and who is to score it."""

    run: str
    """Folder of the run."""
    memory: str
    """Folder of the memory, empty where there is none."""
    history: str
    arm: str
    question: int
    step: int
    by: str
    """Name of a scorer, or ADDRESSES."""


class Replay:
    """One per server. May be used from one thread; its own thread only takes answers in."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "workbench.stores.rescoring")):
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._answers: OrderedDict[Wish, tuple[dict[str, Any], float]] = OrderedDict()
        self._wishes: OrderedDict[Wish, None] = OrderedDict()
        self._working_on: Wish | None = None

    def ask(self, wish: Wish) -> dict[str, Any] | None:
        """The answer as `rescoring` gives it, or None while it is worked on: ask again. Never waits."""
        with self._lock:
            if (known := self._known(wish)) is not None:
                return known
            if wish != self._working_on:
                self._wishes[wish] = None
                self._wishes.move_to_end(wish)
                while len(self._wishes) > WISHES_KEPT:
                    self._wishes.popitem(last=False)
                self._begin_next()
            return self._known(wish)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _known(self, wish: Wish) -> dict[str, Any] | None:
        if wish not in self._answers:
            return None
        answer, came_s = self._answers[wish]
        if "error" in answer and time.monotonic() - came_s > SENTENCES_KEPT_S:
            return None
        self._answers.move_to_end(wish)
        return answer

    def _begin_next(self) -> None:
        """Under the lock: hand the newest wish to the process, if that is free."""
        if self._working_on is not None or not self._wishes:
            return
        wish, _ = self._wishes.popitem()
        self._working_on = wish
        try:
            process = self._running()
            assert process.stdin is not None
            process.stdin.write(json.dumps(wish._asdict()) + "\n")
            process.stdin.flush()
        except OSError as problem:
            self._working_on = None
            self._keep(
                wish, {"error": f"the process that scores anew cannot be reached ({problem}); ask again"}
            )

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, encoding="utf-8",
                # One core is left to the pages.
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                # Ctrl-C in the terminal is for the server, which then ends this one.
                start_new_session=True,
            )  # fmt: skip
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self._process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            with self._lock:
                wish, self._working_on = self._working_on, None
                if wish is not None:
                    self._keep(wish, answer)
                self._begin_next()
        with self._lock:
            if process is self._process and self._working_on is not None:
                wish, self._working_on = self._working_on, None
                self._process = None
                self._keep(
                    wish,
                    {
                        "error": "the process that scores anew has ended without an answer; choose another scorer"
                    },
                )

    def _keep(self, wish: Wish, answer: dict[str, Any]) -> None:
        self._answers[wish] = answer, time.monotonic()
        while len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)
