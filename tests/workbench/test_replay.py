"""Steps scored anew in a process of their own: never waited for, kept, and a sentence where it cannot be."""

import sys
import time
from pathlib import Path

import pytest
from make_run import make_run

from megacontext.scoring import SCORERS as REGISTRY
from workbench.stores.replay import ADDRESSES, SCORERS, Replay, Wish
from workbench.stores.rescoring import Rescorer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("replay") / "made", questions=2, traced=1)


def wish(run: Path, **changes: object) -> Wish:
    first = Wish(run=str(run), memory="", history="16k-0", arm="lensnet", question=0, step=0, by=ADDRESSES)
    return first._replace(**changes)


def answered(replay: Replay, asked: Wish, patience_s: float = 60) -> dict:
    until = time.monotonic() + patience_s
    while (answer := replay.ask(asked)) is None:
        assert time.monotonic() < until, "no answer came"
        time.sleep(0.02)
    return answer


def test_every_scorer_that_there_is_can_be_chosen() -> None:
    assert set(SCORERS) == set(REGISTRY.names())


def test_the_exact_context_by_addresses_needs_neither_model_nor_memory(run: Path) -> None:
    exact = Rescorer().answer(wish(run)._asdict())["exact"]
    assert exact["best"] > exact["value"] and exact["cost_positions"] <= exact["room"]


def test_what_cannot_be_scored_is_a_sentence(run: Path) -> None:
    rescorer = Rescorer()
    for asked, said in [
        (wish(run, by="bm25"), "kept none; compare with a recorded arm"),
        (wish(run, by="no-such"), "unknown scorer 'no-such'"),
        (wish(run, step=99), "not recorded entry by entry"),
        (wish(run.parent / "gone"), "run"),
    ]:
        assert said in rescorer.answer(asked._asdict())["error"]


def test_asking_never_waits_and_the_answer_is_kept(run: Path) -> None:
    replay = Replay()
    try:
        began = time.monotonic()
        assert replay.ask(wish(run)) is None and time.monotonic() - began < 0.5
        first = answered(replay, wish(run))
        assert "exact" in first and replay.ask(wish(run)) is first
    finally:
        replay.close()


def test_a_process_that_dies_is_a_sentence_and_the_next_question_starts_another(run: Path) -> None:
    replay = Replay((sys.executable, "-c", "input()"))
    try:
        assert "ended without an answer" in answered(replay, wish(run))["error"]
        assert "ended without an answer" in answered(replay, wish(run, step=1))["error"]
    finally:
        replay.close()


def test_older_wishes_give_way_to_newer_ones(run: Path) -> None:
    slow = 'import sys,time\nfor line in sys.stdin:\n time.sleep(.3); print(\'{"error": "x"}\', flush=True)'
    replay = Replay((sys.executable, "-c", slow))
    try:
        for step in range(20):
            replay.ask(wish(run, step=step))
        answered(replay, wish(run, step=19), 20)
        assert replay.ask(wish(run, step=2)) is None
    finally:
        replay.close()
