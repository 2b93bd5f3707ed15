"""The control of the step writes the selection, and plays to the end and no further."""

from pathlib import Path

from desks import desk_on, words

from workbench.state import Selection
from workbench.views import FocusView
from workbench.views.stepping import Stepper


def stepper(step: int = -1, last: int = 3) -> tuple[Stepper, Selection]:
    selection = Selection(view="focus", step=step)
    made = Stepper(selection, "focus")
    made.show(step if step >= 0 else last, last)
    return made, selection


def test_arrows_step_and_stay_within_the_steps() -> None:
    control, selection = stepper(1)
    keys = ["ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home", "ArrowLeft"]
    for key, step in zip(keys, [2, 1, 3, 3, 0, 0], strict=True):
        control.press(key)
        assert selection.step == step


def test_standing_at_the_last_step_selects_none() -> None:
    control, selection = stepper(-1)
    control.press("End")
    assert selection.step == -1


def test_playing_goes_on_from_the_start_and_ends_at_the_last() -> None:
    control, selection = stepper(-1)
    control.press(" ")
    assert control.playing and selection.step == 0
    for step in (1, 2, 3):
        control.advance()
        assert selection.step == step
    assert not control.playing


def test_the_address_waits_while_steps_are_passed_through() -> None:
    control, selection = stepper(0)
    waits = []
    selection.param.watch(
        lambda event: waits.append((selection.passing, selection.step)), ["step", "passing"]
    )
    control.toggle()
    for _ in range(3):
        control.advance()
    assert waits == [(True, 0), (True, 1), (True, 2), (True, 3), (False, 3)]
    control.press("ArrowLeft")
    assert waits[-1] == (False, 2)


def test_playing_stops_when_asked_and_where_another_view_is_looked_at() -> None:
    control, selection = stepper(0)
    control.toggle()
    control.toggle()
    assert not control.playing
    control.toggle()
    selection.view = "tree"
    control.advance()
    assert not control.playing and selection.step == 0


def test_a_single_step_cannot_be_played() -> None:
    control, _ = stepper(-1, last=0)
    control.toggle()
    assert not control.playing


def test_focus_says_why_and_counts_regret(finished_run: Path) -> None:
    view = FocusView(desk_on(finished_run, history="book-0", question=2, step=0))
    for _ in range(2):  # what it opens with, then what lies below
        view.tick()
    said = words(view.panel())
    assert "By this step's own scores alone" in said.replace("&#39;", "'")
    assert "recorded before reasons were" in said and "its text cannot be shown" in said
