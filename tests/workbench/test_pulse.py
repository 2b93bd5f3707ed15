"""A page that has not drawn is not sent more; a page that is lost is, after a while."""

import pytest
from bokeh.document import Document
from bokeh.models import Range1d

from workbench import pulse
from workbench.pulse import Pulse


def test_it_is_free_again_once_the_page_has_drawn_and_not_before():
    document = Document()
    one = Pulse(document)
    (way,) = (root for root in document.roots if isinstance(root, Range1d))
    assert one.free
    one.beat()
    assert not one.free and (way.start, way.end) == (0, 1)
    way.start = 1  # what the page answers
    assert one.free
    one.beat()
    assert not one.free


def test_a_lost_answer_holds_the_page_up_only_for_a_while(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    one = Pulse(Document())
    one.beat()
    now[0] += pulse.PATIENCE_S - 1
    assert not one.free
    now[0] += 2
    assert one.free
    one.beat()
    assert not one.free


def test_without_a_page_it_is_always_free():
    one = Pulse(None)
    one.beat()
    assert one.free
