"""What a run found, in one form: a place in a table leads to the samples that it counts, a mean has its interval."""

import json
from pathlib import Path

import pytest
from make_run import run_json, write_json

from megacontext.telemetry import TelemetryWriter
from workbench.conclusions import headline, trained
from workbench.stores.curves import RunCurves
from workbench.stores.findings import estimates, last_values, metrics, tables
from workbench.stores.run import RunStore

MEAN = {"mean": -0.2, "se": 0.05, "z": -4.0, "low": -0.3, "high": -0.1}


def run_with(
    folder: Path, results: dict[str, object], lines: tuple[dict[str, object], ...] = (), **about: object
) -> RunStore:
    write_json(folder / "run.json", run_json(folder.name, **about))
    write_json(folder / "results.json", results)
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunStore(folder)


def test_every_place_of_the_scores_leads_to_as_many_samples_as_it_counts(finished_run: Path) -> None:
    store = RunStore(finished_run)
    scores, depth = tables(store)
    rows = store.rows().to_dicts()
    for at, row in enumerate(rows):
        page = store.samples.select(scores.own[at])
        assert (page.total, page.right) == (row["n"], row["correct"])
        plain = scores.places[at][scores.columns.index("plain")]
        assert store.samples.select(plain).total == row["plain_n"]
    for at in range(len(depth.rows)):
        fifths = [store.samples.select(place).total for place in depth.places[at] if place]
        assert len(fifths) == 5 and sum(fifths) == store.samples.select(depth.own[at]).total


def test_tables_that_a_run_wrote_lead_to_samples_by_seed_kind_and_text(tmp_path: Path) -> None:
    written = [
        {"title": "By seed", "columns": ["cell", "arm", "n", "seed 0", "seed 1"],
         "rows": [["4k", "bm25", "1", ".5", "–"]]},
        {"title": "By kind", "columns": ["cell", "arm", "n", "pair"], "rows": [["4k", "bm25", "1", ".5"]]},
    ]  # fmt: skip
    line = {"history": "4k-0", "cell": "4k", "arm": "bm25", "seed": 0, "kind": "pair", "correct": True}
    by_seed, by_kind = tables(run_with(tmp_path, {"tables": written}, (line, line | {"seed": 1})))
    own = {"group": "4k", "arm": "bm25"}
    assert by_seed.own == [own] and by_seed.places[0][3] == own | {"seed": "0"} and by_seed.slug == "by-seed"
    assert by_seed.places[0][2] is None and by_seed.texts == 2
    assert by_kind.places[0][3] == own | {"kind": "pair"}


def test_a_text_of_a_genre_is_two_conditions(tmp_path: Path) -> None:
    written = [
        {"title": "Worth", "columns": ["model", "text", "arm"], "rows": [["tiny", "prose, again", "full"]]}
    ]
    line = {"model": "tiny", "genre": "prose", "text": "again", "full": 1.0}
    (table,) = tables(run_with(tmp_path, {"tables": written}, (line,)))
    assert table.own == [{"model": "tiny", "genre": "prose", "text": "again"}]


def test_without_samples_no_place_leads_anywhere(tmp_path: Path) -> None:
    written = [{"title": "T", "columns": ["cell", "arm"], "rows": [["4k", "bm25"]]}]
    (table,) = tables(run_with(tmp_path, {"tables": written}))
    assert table.own == [None] and table.places == [[None, None]]


def test_delta_nll_has_its_interval_by_level_and_genre_at_the_longest_horizon(tmp_path: Path) -> None:
    def cell(horizon: int, lod: int) -> dict[str, object]:
        lost = {"nats": 3.0, "windows": 60, "minus_full": MEAN, "minus_drop": MEAN | {"mean": 0.7}}
        return {
            "cell": f"prose LOD{lod} at 64",
            "model": "tiny",
            "horizon": horizon,
            "arms": {"full": lost, "gists": lost, "drop": lost},
        }

    cells = [cell(horizon, lod) for lod in (1, 2) for horizon in (32, 128)]
    against_full, against_drop = estimates(run_with(tmp_path, {"cells": cells}))
    assert against_full.frame.select("label", "series", "mean", "low", "high", "n").rows() == [
        (f"prose LOD{lod} at 64 · tiny", arm, -0.2, -0.3, -0.1, 60)
        for lod in (1, 2)
        for arm in ("gists", "drop")
    ]
    assert set(against_drop.frame["series"]) == {"full", "gists"} and "128" in against_full.note


@pytest.mark.parametrize(
    ("results", "title", "series"),
    [
        ({"cells": [{"cell": "prose LOD1", "model": "m", "in_place": "gist", "spans": 9, "delta": MEAN}]},
         "span", "gist"),
        ({"cells": [{"model": "m", "genre": "prose", "text": "text", "windows": 9,
                     "arms": {"full": {"minus_drop": MEAN}, "drop": {"minus_drop": MEAN}}}]}, "equal", "full"),
        ({"genre": "prose", "windows": 9, "arms": [{"arm": "drop", **MEAN}, {"arm": "gist-0", **MEAN}]},
         "equal", "gist-0"),
        ({"audit": [{"history": "4k", "arm": "bm25", "n": 9, "spearman": -0.2, "spearman_low": -0.3,
                     "spearman_high": -0.1, "first": None, "regret_nats": None}]}, "utilities", "bm25"),
    ],
)  # fmt: skip
def test_every_suite_of_plain_text_and_the_audit_have_means_to_draw(
    tmp_path: Path, results: dict[str, object], title: str, series: str
) -> None:
    (one,) = estimates(run_with(tmp_path, results))
    assert title in one.title and one.frame.select("series", "mean", "low", "high").rows() == [
        (series, -0.2, -0.3, -0.1)
    ]


@pytest.mark.parametrize("cells", [[1], [{"horizon": 3, "arms": 4}], {"a": 1}, [{"in_place": "gist"}]])
def test_results_of_another_form_are_left_to_their_tables(tmp_path: Path, cells: object) -> None:
    assert estimates(run_with(tmp_path, {"cells": cells})) == []


def test_a_training_run_says_what_it_ended_with_and_where_its_curves_are(tmp_path: Path) -> None:
    store = run_with(
        tmp_path,
        {"metrics": {"bits_per_byte": 2.17552, "after": {"steps": 12_345, "name": "x"}}},
        kind="joint",
    )
    with TelemetryWriter(tmp_path / "telemetry") as writer:
        for step, loss in ((1, 5.0), (2, 1.0), (3, 2.0)):
            writer.emit("train", step=step, stage="base", loss_nats=loss)
    store.refresh()
    assert metrics(store) == [("bits_per_byte", "2.1755"), ("after.steps", "12,345"), ("after.name", "x")]
    (loss,) = last_values(RunCurves(tmp_path))
    assert (loss.last, loss.lowest, loss.highest, loss.at) == (2.0, 1.0, 5.0, 3.0)
    assert trained(store) == "Trained to step 3 in stage base; the loss went from 5.000 to 2.000 nats."
    assert "Trained to step 3" in headline(store)
