"""The results of a run, in words."""

from pathlib import Path

from desks import desk_on, words

from workbench.views import ResultsView


def test_the_results_say_what_the_run_concluded(finished_run: Path) -> None:
    desk = desk_on(finished_run)
    said = words(ResultsView(desk).panel())
    assert desk.run.sentences[0] in said and "95 % interval" in said and "smoke test" in said
