"""Progress is a bar on a terminal and a line at the end elsewhere, always on standard error."""

import pytest

from megacontext import progress
from megacontext.progress import Progress


def test_without_a_terminal_there_is_one_line_at_the_end(capsys):
    with Progress("text into tree", 10) as bar:
        bar.advance("first")
        bar.advance(steps=4)
    said = capsys.readouterr()
    assert said.out == "" and said.err == "text into tree: 5/10 first\n"


def test_nothing_done_is_nothing_said(capsys):
    with Progress("nothing", 10):
        pass
    assert capsys.readouterr().err == ""


def test_slow_work_says_so_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress("slow", 2) as bar:
        bar.advance()
        bar.advance("half")
    assert capsys.readouterr().err.splitlines() == ["slow: 1/2", "slow: 2/2 half", "slow: 2/2 half"]


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("text into tree", 10) as bar:
        bar.advance("quick", steps=10)
    said = capsys.readouterr()
    assert "text into tree" in said.err and "10/10" in said.err and said.out == ""


def test_an_error_inside_goes_its_way(capsys):
    with pytest.raises(ValueError, match="inside"), Progress("broken", 2) as bar:
        bar.advance()
        raise ValueError("inside")


def test_where_another_process_speaks_it_is_silent(capsys):
    with Progress("books", 3, quiet=True) as progress:
        progress.advance("one", 3)
    assert capsys.readouterr().err == ""
