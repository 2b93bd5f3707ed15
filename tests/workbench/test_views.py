"""What all views have in common, drawn from recorded frames, without a browser."""

from pathlib import Path

import pytest
from desks import desk_on, live_run, words
from make_run import make_run

from workbench.page import about
from workbench.state import VIEWS
from workbench.views import VIEW_CLASSES

OF_A_RUN = [view for view in VIEW_CLASSES.values() if view.needs == "run"]


def test_every_view_has_its_place() -> None:
    assert list(VIEW_CLASSES) == list(VIEWS)


@pytest.mark.parametrize("view", OF_A_RUN)
def test_a_view_of_a_run_that_has_just_begun_says_what_will_come(tmp_path: Path, view: type) -> None:
    said = words(view(desk_on(live_run(tmp_path / "live"))).panel())
    assert "appear" in said or "begin" in said


@pytest.mark.parametrize("view", OF_A_RUN)
def test_text_of_a_run_cannot_speak_html(tmp_path: Path, view: type) -> None:
    evil = '<img src=x onerror="hacked()"><script>hacked()</script>\u202e'
    desk = desk_on(make_run(tmp_path / "evil", questions=2, traced=1, prompt=evil, message=evil, device=evil))
    said = words(view(desk).panel()) + str(about(desk.run.info, desk.run.state))
    assert "<img" not in said and "<script" not in said and "\u202e" not in said and "&lt;img" in said
