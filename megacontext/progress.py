"""Progress of slow work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts steps of one task on standard error. A context manager.

    `total` None: nobody knows how many there are. `quiet`: counts and says nothing, where another process speaks.
    """

    def __init__(self, title: str, total: int | None, *, quiet: bool = False):
        self._quiet = quiet
        self._title, self._total = title, total
        self._done, self._note = 0, ""
        self._last_line = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self._quiet:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done:
            self._print()

    def advance(self, note: str | None = None, steps: int = 1) -> None:
        """Count `steps` more; `note` replaces what stands beside the bar."""
        self._done += steps
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, note=self._note)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._print()

    def set(self, done: int, note: str | None = None) -> None:
        """The same, for who knows how many steps are done in all."""
        self.advance(note, done - self._done)

    def _print(self) -> None:
        if self._quiet:
            return
        self._last_line = time.monotonic()
        of = "" if self._total is None else f"/{self._total}"
        print(f"{self._title}: {self._done}{of} {self._note}".rstrip(), file=sys.stderr, flush=True)
