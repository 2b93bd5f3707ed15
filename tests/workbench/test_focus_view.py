"""What the model saw of one question's history, in words."""

from pathlib import Path

import pytest
from desks import desk_on, words

from workbench.views import FocusView, TreeView


def test_the_focus_view_tells_question_answers_and_edits(finished_run: Path) -> None:
    said = words(FocusView(desk_on(finished_run, history="book-0", question=2, step=0)).panel())
    assert "The number of the harbour" in said and "superseded, 3 values" in said
    assert "Step 0 of" in said and "expands 1" in said


def test_the_last_step_is_shown_where_none_is_chosen(finished_run: Path) -> None:
    assert "no edits: the final context" in words(FocusView(desk_on(finished_run)).panel())


@pytest.mark.parametrize("view", [FocusView, TreeView])
def test_an_untraced_question_says_which_to_choose(finished_run: Path, view: type) -> None:
    assert "marked “traced”" in words(view(desk_on(finished_run, history="16k-0", question=20)).panel())
