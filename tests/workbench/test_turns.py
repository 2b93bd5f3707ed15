"""What one piece of work changes leaves in order; what a hand does waits for the page's turn."""

from bokeh.document import Document
from bokeh.models import Div
from panel.io.document import unlocked
from panel.io.state import set_curdoc

from workbench.turns import in_one_go, in_turn


class Page(Document):
    """A document as a session has one."""

    session_context = property(lambda self: object())


def test_changes_are_kept_until_the_work_is_done_and_come_in_order() -> None:
    page, first, second, seen = Page(), Div(), Div(), []
    page.add_root(first)
    page.add_root(second)
    page.on_change(lambda event: seen.append((event.model, event.new)))
    with set_curdoc(page):
        with in_one_go():
            first.text = "a"
            with in_one_go(), unlocked():
                second.text = "b"
            first.text = "c"
            assert seen == []
        assert seen == [(first, "c"), (second, "b")]  # of one property only the last change
        second.text = "d"
    assert seen[-1] == (second, "d")


def test_changes_made_before_a_mistake_are_not_lost() -> None:
    page, div, seen = Page(), Div(), []
    page.add_root(div)
    page.on_change(seen.append)
    with set_curdoc(page):
        try:
            with in_one_go():
                div.text = "a"
                raise ValueError
        except ValueError:
            pass
        div.text = "b"
    assert len(seen) == 2


def test_work_of_a_hand_waits_for_its_turn_on_a_page_and_is_done_at_once_without_one() -> None:
    page, done = Page(), []
    in_turn(lambda: done.append("at once"))
    assert done == ["at once"]
    with set_curdoc(page):
        in_turn(lambda: done.append("in turn"))
        assert done == ["at once"]
        (callback,) = page.session_callbacks
        callback.callback()
    assert done == ["at once", "in turn"]
