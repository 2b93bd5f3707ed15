"""Samples: every line of answers.jsonl once, filtered, sorted and paged as asked."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import ConfigError
from workbench.stores.run import RunStore
from workbench.stores.samples import (
    PAGE_ROWS,
    Samples,
    compared_arms,
    conditions_of,
    scores_of,
    text_of_conditions,
)


def samples_of(folder: Path, rows: list[dict[str, object]]) -> Samples:
    write(folder, rows)
    samples = Samples(folder)
    samples.refresh()
    return samples


def write(folder: Path, rows: list[dict[str, object]], mode: str = "w") -> None:
    with (folder / "answers.jsonl").open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def answers(count: int, first: int = 0) -> list[dict[str, object]]:
    return [
        {"history": f"4k-{at % 3}", "arm": ("lensnet", "bm25")[at % 2], "question": at // 2, "kind": "plain",
         "seed": at % 3,
         "depth": (at % 10) / 10, "correct": at % 4 == 0, "prompt": f"Where is the Lantern {at}?", "answered": "x"}
        for at in range(first, first + count)
    ]  # fmt: skip


def window(**scores: float) -> dict[str, object]:
    return {
        "cell": "prose LOD1 at 64",
        "genre": "prose",
        "model": "tiny",
        "segment": "book:0",
        "start": 0,
    } | scores


@pytest.mark.parametrize("count", [0, 1, PAGE_ROWS - 1, PAGE_ROWS, PAGE_ROWS + 1, 1023])
def test_pages_hold_every_sample_once(tmp_path: Path, count: int) -> None:
    samples = samples_of(tmp_path, answers(count))
    first = samples.select({})
    pages = [samples.select({}, page=number) for number in range(first.pages)]
    assert first.total == count and first.pages == max(1, -(-count // PAGE_ROWS))
    assert [number for page in pages for number in page.rows["sample"]] == list(range(count))
    assert samples.select({}, page=999).number == first.pages - 1


def test_conditions_verdict_and_text_are_all_met(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, answers(200))
    page = samples.select({"arm": "lensnet", "seed": "1", "group": "4k"}, "right", "lantern 1")
    rows = samples.frame.filter(
        (pl.col("arm") == "lensnet")
        & (pl.col("seed") == 1)
        & pl.col("correct")
        & pl.col("prompt").str.contains("tern 1")
    )
    assert 0 < page.total == len(rows) == page.right
    assert samples.select({}, "wrong").right == 0 and samples.select({}, "").right == 50


def test_a_fifth_holds_its_lower_end_and_the_last_one_both(tmp_path: Path) -> None:
    rows = [{"history": "a-0", "depth": depth} for depth in (0.0, 0.19, 0.2, 0.8, 1.0)]
    samples = samples_of(tmp_path, rows)
    assert samples.select({"depth": "0.0-0.2"}).total == 2 and samples.select({"depth": "0.8-1.0"}).total == 2
    assert samples.select({"depth": "nonsense"}).total == 0


def test_what_is_not_there_is_met_by_none_and_breaks_nothing(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, answers(5))
    assert samples.select({"no such column": "1"}).total == 0
    assert samples.select({}, search="(.*[", order="-no such column", verdict="perhaps").total == 0
    assert samples.one(5) is None and samples.one(-1) is None


def test_rows_are_sorted_both_ways_and_what_is_unknown_comes_last(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, [{"history": "a-0", "depth": depth} for depth in (0.5, None, 0.9, 0.1)])
    assert samples.select({}, order="depth").rows["sample"].to_list() == [3, 0, 2, 1]
    assert samples.select({}, order="-depth").rows["sample"].to_list() == [2, 0, 3, 1]


def test_lines_are_taken_in_as_they_come_and_half_a_line_is_left_alone(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, answers(3))
    assert not samples.refresh()
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"history": "4k-0", "qu')
    assert not samples.refresh() and len(samples.frame) == 3
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('estion": 9}\n')
    assert samples.refresh() and samples.one(3) == {
        "history": "4k-0",
        "question": 9,
        "group": "4k",
        "sample": 3,
    }


def test_a_file_that_was_written_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, answers(9))
    write(tmp_path, answers(2, first=50))
    assert (
        samples.refresh()
        and samples.frame["prompt"][0] == "Where is the Lantern 50?"
        and len(samples.frame) == 2
    )
    (tmp_path / "answers.jsonl").unlink()
    assert samples.refresh() and len(samples.frame) == 0


def test_followed_line_by_line_is_read_at_once(finished_run: Path, tmp_path: Path) -> None:
    whole = Samples(finished_run)
    whole.refresh()
    text = (finished_run / "answers.jsonl").read_text()
    followed = Samples(tmp_path)
    for end in (0, 100, 5_000, 5_001, len(text)):
        (tmp_path / "answers.jsonl").write_text(text[:end])
        followed.refresh()
    assert followed.frame.equals(whole.frame)


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"question": "one"}', '{"correct": "maybe"}'])
def test_a_line_that_is_none_is_a_sentence(tmp_path: Path, line: str) -> None:
    (tmp_path / "answers.jsonl").write_text('{"history": "a-0", "question": 1}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"answers\.jsonl"):
        Samples(tmp_path).refresh()


def test_numbers_that_are_none_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"model": "a", "drop": NaN}\n{"model": "a", "drop": 1.5}\n')
    samples = Samples(tmp_path)
    samples.refresh()
    assert samples.frame["drop"][1] == 1.5 and samples.frame["drop"].is_nan()[0]


def test_a_window_is_judged_by_gists_against_as_many_recent_tokens_at_the_longest_horizon(
    tmp_path: Path,
) -> None:
    rows = [window(gists_32=3.0, drop_32=1.0, gists_128=2.0, drop_128=2.5, full_128=1.0)]
    samples = samples_of(tmp_path, rows)
    assert scores_of(samples.frame) == ["gists_128", "drop_128", "full_128"]
    assert compared_arms(samples.frame) == ("gists_128", "drop_128")
    assert samples.frame["difference"].to_list() == [-0.5] and samples.frame["group"][0] == "prose LOD1 at 64"


def test_beside_a_sample_stand_the_other_arms_of_its_question(finished_run: Path) -> None:
    store = RunStore(finished_run)
    beside = store.samples.beside(3)
    assert len(beside) == 8 and beside["question"].n_unique() == 1 and beside["arm"].n_unique() == 8
    assert store.samples.beside(10**6).is_empty()


def test_a_run_that_has_not_answered_has_no_samples(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    assert not samples.refresh() and samples.select({"arm": "x"}, "right", "y").total == 0


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1)))
def test_conditions_survive_their_address(conditions: dict[str, str]) -> None:
    assert conditions_of(text_of_conditions(conditions)) == conditions
