"""A selection and its URL say the same, and what a URL asks for need not exist."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.state import VIEWS, Selection
from workbench.stores.run import RunStore


@given(
    run=st.text(), view=st.sampled_from(list(VIEWS)), history=st.text(), arm=st.text(), node=st.text(),
    question=st.integers(-1, 999_999), step=st.integers(-1, 999_999), span=st.text(), colour=st.text(),
    query=st.text(), text=st.text(), level=st.integers(-1, 12),
)  # fmt: skip
def test_a_selection_survives_its_url(**chosen: object) -> None:
    one, other = Selection(**chosen), Selection()
    other.take_query(one.to_query())
    assert other.param.values() | {"name": ""} == one.param.values() | {"name": ""}


@given(st.text())
def test_no_query_breaks_a_page(query: str) -> None:
    Selection().take_query(query)


@pytest.mark.parametrize(
    "query", ["?view=nowhere", "?step=-3", "?step=1e9", "?question=٣", "?step=99999999999999"]
)
def test_what_cannot_be_is_left_as_it_is(query: str) -> None:
    selection = Selection()
    selection.take_query(query)
    assert (selection.view, selection.question, selection.step) == ("results", -1, -1)


def test_a_run_named_by_digits_is_a_name() -> None:
    selection = Selection()
    selection.take_query("?run=20250101")
    assert selection.run == "20250101"


def test_settling_starts_at_the_first_traced_question_of_lensnet(finished_run: Path) -> None:
    selection = Selection()
    selection.settle(RunStore(finished_run))
    assert (selection.history, selection.question, selection.arm, selection.step) == (
        "16k-0",
        0,
        "lensnet",
        -1,
    )


def test_settling_keeps_what_exists_and_moves_what_does_not(finished_run: Path) -> None:
    selection = Selection(history="book-0", question=2, arm="oracle", step=99)
    selection.settle(RunStore(finished_run))
    assert (selection.history, selection.question, selection.arm, selection.step) == (
        "book-0",
        2,
        "oracle",
        -1,
    )
    selection.history = "gone-0"
    selection.settle(RunStore(finished_run))
    assert selection.history == "16k-0"


def test_an_untraced_question_has_no_arm_to_follow(finished_run: Path) -> None:
    selection = Selection(history="16k-0", question=20)
    selection.settle(RunStore(finished_run))
    assert (selection.question, selection.arm) == (20, "")


def test_going_back_lets_go_of_what_the_address_does_not_say() -> None:
    selection = Selection(run="one", view="focus", sample=3, cell="arm=bm25", step=2)
    selection.take_query("?view=results&step=1", whole=True)
    assert (selection.run, selection.view, selection.sample, selection.cell) == ("one", "results", -1, "")
    assert selection.step == 1


def test_a_choice_lets_go_of_what_meant_something_of_the_one_before() -> None:
    selection = Selection(run="one", history="a-0", cell="arm=bm25", sample=3, page=2, compare="one/two")
    selection.choose(cell="arm=oracle")
    assert (selection.sample, selection.page, selection.history) == (-1, -1, "a-0")
    selection.choose(run="two", question=4)
    assert (selection.history, selection.cell, selection.question, selection.compare) == (
        "",
        "",
        4,
        "one/two",
    )
