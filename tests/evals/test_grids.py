"""The tables against answers that were counted by hand."""

import pytest

from megacontext.evals.evaluation import EvalConfig
from megacontext.evals.grids import results_of, retention, worst_of_mean
from megacontext.evals.statistics import wilson
from megacontext.evals.suites import Cell
from megacontext.tasks.needles import Needles


def answers_of(cell, arm, seed, rights, kinds="plain", hit=True):
    """One answer for each character of `rights`, at depths from the old end to the new one."""
    return [
        {
            "history": f"{cell}-0", "arm": arm, "question": at, "kind": kinds, "versions": 1, "depth": at / len(rights),
            "expected": "a", "answered": "b", "correct": right == "1", "cost_positions": 100 + at, "hit": hit,
            "group": cell, "history_tokens": 4200, "cell": cell, "seed": seed,
        }
        for at, right in enumerate(rights)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def results():
    config = EvalConfig(suite="needles", seeds=(0, 7), arms=("bm25", "oracle"), lengths=(4096, 16_384), n=10)
    answers = [
        *answers_of("4k", "bm25", 0, "11100"), *answers_of("4k", "bm25", 7, "11000", "superseded"),
        *answers_of("4k", "oracle", 0, "11111"), *answers_of("4k", "oracle", 7, "11110"),
        *answers_of("16k", "bm25", 0, "10000"), *answers_of("16k", "bm25", 7, "00000"),
        *answers_of("16k", "oracle", 0, "11111"), *answers_of("16k", "oracle", 7, "11111"),
    ]  # fmt: skip
    ingest = [
        {"group": "4k", "wall_s": 1.0, "store_bytes": 400, "tokens": 10},
        {"group": "4k", "wall_s": 3.0, "store_bytes": 200, "tokens": 20},
        {"group": "16k", "wall_s": 5.0, "store_bytes": 100, "tokens": 10},
    ]
    return results_of(config, answers, ingest, bytes_per_position=1000)


def one(rows, **at):
    (row,) = [row for row in rows if all(row[name] == value for name, value in at.items())]
    return row


def test_seeds_are_pooled_and_stand_beside_one_another(results):
    pooled = one(results["rows"], history="4k", arm="bm25")
    assert (pooled["n"], pooled["correct"], pooled["accuracy"]) == (10, 5, 0.5)
    assert (pooled["low"], pooled["high"]) == wilson(5, 10)
    assert [row["accuracy"] for row in results["seeds"] if row["history"] == "4k"] == [0.6, 0.4, 1.0, 0.8]


def test_a_cell_has_its_ceiling_and_its_costs(results):
    row = one(results["rows"], history="4k", arm="bm25")
    assert row["of_oracle"] == pytest.approx(0.5 / 0.9) and row["hit_rate"] == 1
    assert row["cost_positions_mean"] == 102 and row["bytes_per_step"] == 102_000
    assert row["ingest_s"] == 2.0 and row["disk_bytes_per_token"] == 20.0
    assert (row["plain_n"], row["plain_accuracy"], row["superseded_accuracy"]) == (5, 0.6, 0.4)
    assert one(results["rows"], history="16k", arm="oracle")["plain_n"] == 10


def test_depths_are_fifths_and_the_worst_is_over_their_mean(results):
    fifths = [row["accuracy"] for row in results["depth"] if row["history"] == "4k" and row["arm"] == "bm25"]
    assert fifths == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert one(results["rows"], history="4k", arm="bm25")["worst_depth"] == 0.0
    assert one(results["rows"], history="4k", arm="oracle")["worst_depth"] == pytest.approx(0.5 / 0.9)
    some = [{"n": 4, "accuracy": 0.5}, {"n": 0, "accuracy": None}, {"n": 2, "accuracy": 1.0}]
    assert worst_of_mean(some) == pytest.approx(0.5 / 0.75), "a fifth that was not asked about has no say"
    assert worst_of_mean([{"n": 3, "accuracy": 0.0}]) is None


def test_retention_is_over_the_first_cell_of_the_family(results):
    kept = {(row["history"], row["arm"]): row["retention"] for row in results["retention"]}
    assert kept == {("16k", "bm25"): pytest.approx(0.2), ("16k", "oracle"): pytest.approx(1 / 0.9)}


def test_retention_keeps_families_apart_and_knows_nothing_over_nothing():
    names = {"a-4k": "a", "a-16k": "a", "b-4k": "b", "b-16k": "b"}
    cells = [Cell(name, family, 1, Needles()) for name, family in names.items()]
    scores = {"a-4k": 0.5, "a-16k": 0.25, "b-4k": 0.0, "b-16k": 0.5}
    rows = [{"history": name, "arm": "bm25", "accuracy": score} for name, score in scores.items()]
    assert [(row["history"], row["first"], row["retention"]) for row in retention(cells, rows)] == [
        ("a-16k", "a-4k", 0.5), ("b-16k", "b-4k", None),
    ]  # fmt: skip


def test_kinds_stand_apart_where_a_cell_has_several(results):
    assert [(row["history"], row["kind"], row["accuracy"]) for row in results["kinds"]] == [
        ("4k", "plain", 0.6), ("4k", "superseded", 0.4),
    ]  # fmt: skip


def test_the_tables_say_the_same_in_text(results):
    tables = {table["title"]: table for table in results["tables"]}
    assert list(tables) == ["Scores", "Costs", "By seed", "By depth", "By kind", "Retention"]
    for table in tables.values():
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert tables["Scores"]["rows"][0] == ["4k", "bm25", "10", ".500", ".237-.763", ".556", "1.000"]
    assert tables["Costs"]["rows"][0] == ["4k", "bm25", "102", "102,000", "2.00", "20.0"]
    assert tables["By seed"]["columns"] == ["cell", "arm", "n", "seed 0", "seed 7"]
    assert tables["By depth"]["rows"][0] == [
        "4k",
        "bm25",
        "2",
        "1.000",
        "1.000",
        ".500",
        ".000",
        ".000",
        ".000",
    ]
    assert tables["Retention"]["rows"] == [["16k", "bm25", "4k", ".200"], ["16k", "oracle", "4k", "1.111"]]


def test_the_sentences_name_the_cell_and_say_that_few_questions_prove_nothing(results):
    assert len(results["sentences"]) == 2
    assert (
        "needles 4k: with 256 positions over 4,200 tokens, bm25 answers 50.0% of 10 questions"
        in results["sentences"][0]
    )
    assert "oracle 90.0%. A smoke test: a claim needs 200 questions." in results["sentences"][0]
