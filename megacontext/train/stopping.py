"""An interrupt of a training is noted, and obeyed between two steps, when the state can be saved whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether somebody wants the training to end."""

    wanted = False


@contextmanager
def graceful() -> Iterator[Stop]:
    """Take interrupts and requests to end as wishes, until the block is left.

    Signals reach the main thread alone: a training in another one is ended by whoever started it.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(*_: object) -> None:
        stop.wanted = True

    kept = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
