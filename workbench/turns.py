"""Work on a page in its turn, whose changes go to the browser in order and in one go.

Panel writes some changes to the socket at once and Bokeh writes others when the work is done, so one that was made
later can arrive first, about a model that the browser has not been sent; and while two pieces of work write, changes
can be left behind. Held by Bokeh until the work is done, they all take the one way, in the order of their making.
Deliberately ignorant of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import panel as pn
from bokeh.document import Document


@contextmanager
def in_one_go() -> Iterator[None]:
    """Hold all changes of the page at work until the end, in a callback of its document.

    Inside of another one, and without a page, nothing.
    """
    document = pn.state.curdoc
    if not _is_served(document) or document.callbacks.hold_value is not None:
        yield
        return
    document.hold("combine")
    try:
        yield
    finally:
        document.unhold()


def in_turn(work: Callable[[], None]) -> None:
    """Do work when the page's turn has come: a message of the browser arrives beside it. At once without a page."""
    document = pn.state.curdoc
    if not _is_served(document):
        work()
        return

    def held() -> None:
        with in_one_go():
            work()

    document.add_next_tick_callback(held)


def _is_served(document: Document | None) -> bool:
    return document is not None and document.session_context is not None
