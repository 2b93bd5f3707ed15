"""Work that takes longer than a page may wait: done in a thread, looked at now and then, given up when not wanted.

Nobody is called back: a page asks at its next tick whether the work is done, so no thread ever touches a page.
Deliberately ignorant of what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from megacontext.errors import MegaContextError

T = TypeVar("T")


class Abandoned(Exception):
    """Raised inside work that nobody waits for any more."""


class Job(Generic[T]):
    """One piece of work, begun at once. `work` is given the job, to tell how far it has come."""

    def __init__(self, work: Callable[[Job[T]], T], ended: Callable[[], None] = lambda: None):
        """`ended` is called in the thread when the work has ended, however it did."""
        self._work, self._ended = work, ended
        self._done, self._abandoned = threading.Event(), False
        self._result: T
        self.sentence = ""
        """Why it failed; empty if it did not."""
        self.what = ""
        """What it does now, in words."""
        self.share = 0.0
        """How far that has come, 0..1."""
        # A daemon: who leaves the workbench does not wait for a search.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether there is a result, or a sentence about why there is none."""
        return self._done.is_set()

    @property
    def failed(self) -> bool:
        return self.done and bool(self.sentence)

    @property
    def result(self) -> T:
        """What the work gave. Only once it is done, and has not failed."""
        assert self.done and not self.failed, self.sentence
        return self._result

    def wait(self, seconds: float) -> bool:
        """Wait for the end, but no longer than that; whether it has come."""
        return self._done.wait(seconds)

    def abandon(self) -> None:
        """Nobody waits any more: the work ends at the next `tell`."""
        self._abandoned = True

    def tell(self, what: str = "", share: float = 0.0) -> None:
        """Called by the work. Raises Abandoned where nobody waits any more."""
        if self._abandoned:
            raise Abandoned
        self.what, self.share = what or self.what, share

    def _run(self) -> None:
        try:
            self._result = self._work(self)
        except Abandoned:
            self.sentence = "given up"
        except MegaContextError as problem:
            self.sentence = str(problem)
        except Exception as problem:
            # A bug keeps its traceback in the terminal, and does not leave the page waiting.
            self.sentence = f"work in the background ended in an error ({problem!r}); the terminal says more"
            raise
        finally:
            self._done.set()
            self._ended()
