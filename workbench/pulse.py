"""Whether a page has drawn what it was sent: nothing more is sent to one that has not.

A server can find news faster than a browser can draw them. Then they queue before it, and what it shows falls behind
without end. So after every look for news the page is sent a number, and it says the number back once it has drawn all
that came before. A page in a tab that is not looked at draws nothing, so it is sent nothing either until it is again.
Deliberately ignorant of what is sent.
"""

from __future__ import annotations

import time

from bokeh.document import Document
from bokeh.models import CustomJS, Range1d

PATIENCE_S = 60.0
"""After this much silence news are sent anyway: an answer may have been lost with a connection."""

SAY_IT_BACK = """
// Changes that came with this one or before it are drawn in the next frame, and have been when the one after begins.
requestAnimationFrame(() => requestAnimationFrame(() => { cb_obj.start = cb_obj.end }))
"""


class Pulse:
    """Of one page. Without a document, as in tests of views, it is always free."""

    def __init__(self, document: Document | None):
        # From what is drawn to what is sent: a model that every page of Bokeh knows, and that draws nothing itself.
        self._way = Range1d(0, 0)
        self._way.js_on_change("end", CustomJS(code=SAY_IT_BACK))
        self._sent_at = 0.0
        self._listening = document is not None
        if document is not None:
            document.add_root(self._way)

    @property
    def free(self) -> bool:
        """Whether all that was sent is drawn."""
        late = time.monotonic() - self._sent_at > PATIENCE_S
        return not self._listening or late or self._way.start == self._way.end

    def beat(self) -> None:
        """All that there was to send is on its way."""
        if self._listening:
            self._sent_at = time.monotonic()
            self._way.end += 1
