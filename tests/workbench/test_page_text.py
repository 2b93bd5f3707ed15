"""Text of a run is shown, never run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from workbench.text import count, duration, percent, plain, size, table, visible


def test_markup_is_shown_as_text() -> None:
    assert "<script" not in plain("<script>alert(1)</script>")
    assert "&lt;script&gt;" in plain("<script>alert(1)</script>")


@given(st.text())
def test_no_text_opens_a_tag(text: str) -> None:
    inner = str(plain(text)).removeprefix("<bdi>").removesuffix("</bdi>")
    assert "<" not in inner and ">" not in inner and '"' not in inner


def test_marks_that_turn_the_reading_direction_become_visible() -> None:
    assert visible("a\u202eb\u0000c\u2066") == "a⟨202E⟩b⟨0000⟩c⟨2066⟩"


def test_line_breaks_and_foreign_letters_stay() -> None:
    assert visible("a\nb\tüñ中") == "a\nb\tüñ中"


def test_long_text_is_cut_and_says_how_much_is_missing() -> None:
    assert str(plain("x" * 50, 10)) == "<bdi>xxxxxxxxxx</bdi> … (40 more characters)"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.9431), "94.3 %"), (percent(None), "–"), (percent(float("nan")), "–"), (count(12345.4), "12,345"),
        (size(999), "999 B"), (size(2_065_706), "2.1 MB"), (size(None), "–"), (duration(9.25), "9.2 s"),
        (duration(151), "2 min 31 s"), (duration(7260), "2 h 1 min"), (duration(None), "–"),
    ],
)  # fmt: skip
def test_numbers_carry_their_unit_and_nothing_is_a_dash(shown: str, expected: str) -> None:
    assert shown == expected


def test_table_cells_are_escaped_unless_they_are_markup() -> None:
    cells = table(["a", "b"], [["<i>", Markup("<b>x</b>")]])
    assert "&lt;i&gt;" in cells and "<b>x</b>" in cells
