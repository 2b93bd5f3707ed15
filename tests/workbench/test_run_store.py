"""A run folder as frames: finished, growing, dead, damaged."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from make_run import ARMS, BUDGET, HISTORIES, K, make_run, run_json, write_json

from megacontext.errors import ConfigError
from megacontext.telemetry import TelemetryWriter
from workbench.stores.run import RunStore, group_of
from workbench.stores.runs import list_runs


def test_a_finished_run_gives_its_results_floor_to_ceiling(finished_run: Path) -> None:
    store = RunStore(finished_run)
    assert store.state == "done" and not store.live and store.final
    assert store.groups() == ["16k", "book"]
    assert store.rows("16k")["arm"].to_list() == list(ARMS)
    assert store.rows("16k")["low"].null_count() == 0
    assert len(store.sentences) == 2


def test_what_the_answers_say_so_far_agrees_with_the_results_at_the_end(finished_run: Path) -> None:
    store = RunStore(finished_run)
    shared = [
        "history",
        "history_tokens",
        "arm",
        "n",
        "correct",
        "accuracy",
        "plain_accuracy",
        "superseded_n",
    ]
    final, final_depth = store.rows().select(shared), store.depth()
    store._results = {}
    assert store.rows().select(shared).equals(final)
    columns = ["history", "arm", "depth_bin", "n", "accuracy"]
    order = ["history", "arm", "depth_bin"]
    assert store.depth().select(columns).sort(order).equals(final_depth.select(columns).sort(order))


def test_questions_know_their_text_and_whether_they_were_traced(finished_run: Path) -> None:
    store = RunStore(finished_run)
    questions = store.questions("book-0")
    assert questions["traced"].sum() == 3
    first = questions.row(0, named=True)
    assert first["prompt"].startswith("The number of the lantern") and len(first["needed_blocks"]) == 1
    assert store.needed_tokens("book-0", 0) == [first["needed_blocks"][0] * K + K // 2]


def test_entries_of_a_step_tile_the_history(finished_run: Path) -> None:
    store = RunStore(finished_run)
    entries = store.entries("book-0", "lensnet", 1, step=0)
    assert entries["start"][0] == 0 and entries["stop"][-1] == HISTORIES["book-0"] == store.num_tokens(
        "book-0"
    )
    assert (entries["start"][1:] == entries["stop"][:-1]).all()
    assert entries["cost_positions"].sum() <= BUDGET


def test_traced_arms_come_floor_to_ceiling(finished_run: Path) -> None:
    assert RunStore(finished_run).traced_arms("16k-0", 0) == [
        "random",
        "bm25",
        "lensnet",
        "lensnet+bm25",
        "oracle",
    ]


def test_block_size_comes_from_the_recipe_or_else_from_the_gists(run_copy: Path) -> None:
    assert RunStore(run_copy).block_size == K
    (run_copy / "recipe.toml").write_text("seed = 1\n")
    assert RunStore(run_copy).block_size == K
    shutil.rmtree(run_copy / "telemetry")
    assert RunStore(run_copy).block_size is None


def test_refresh_takes_in_what_is_new_and_says_so(tmp_path: Path) -> None:
    run = tmp_path / "live"
    run.mkdir()
    write_json(run / "run.json", run_json("live", status="running", finished=None))
    store = RunStore(run)
    assert store.live and store.rows().is_empty() and store.histories() == [] and store.groups() == []
    assert not store.refresh()
    with TelemetryWriter(run / "telemetry", flush_seconds=0) as writer:
        writer.emit("train", step=0, stage="base", loss_nats=5.0)
        assert store.refresh() and len(store.frame("train")) == 1
        writer.emit("train", step=1, stage="base", loss_nats=4.0)
        assert store.refresh() and store.frame("train")["step"].to_list() == [0, 1]
    assert not store.refresh()


def test_a_line_of_answers_that_is_still_being_written_is_left_alone(run_copy: Path) -> None:
    with (run_copy / "answers.jsonl").open("a") as file:
        file.write('{"history": "16k-0", "ar')
    assert len(RunStore(run_copy).questions("16k-0")) == 24


HERE, NOWHERE = os.getpid(), 2**22 + 1


@pytest.mark.parametrize(
    ("status", "pid", "age_s", "state"),
    [
        ("done", NOWHERE, 999, "done"), ("failed", HERE, 0, "failed"), ("running", HERE, 1, "running"),
        ("running", None, 1, "running"), ("running", NOWHERE, 1, "dead"), ("running", HERE, 31, "dead"),
    ],
    ids=["done", "failed", "alive", "no-process-known", "process-gone", "heartbeat-old"],
)  # fmt: skip
def test_a_run_that_says_running_needs_a_process_and_a_heartbeat(
    tmp_path: Path, status: str, pid: int | None, age_s: float, state: str
) -> None:
    heartbeat = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    write_json(tmp_path / "run.json", run_json("x", status=status, pid=pid, heartbeat=heartbeat))
    assert RunStore(tmp_path).state == state


def test_runs_are_listed_newest_first_and_damaged_ones_with_their_sentence(tmp_path: Path) -> None:
    for name, day in (("old", 1), ("new", 2)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "run.json", run_json(name, started=f"2025-01-0{day}T00:00:00Z"))
    (tmp_path / "not a run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    runs = list_runs(tmp_path)
    assert [run.name for run in runs] == ["new", "old", "broken"]
    assert runs[2].state == "damaged" and "run.json" in runs[2].problem
    assert list_runs(tmp_path / "nowhere") == []


def test_a_folder_without_run_json_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must hold run"):
        RunStore(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "readable run.json"), ("[]", "no JSON object"), ('{"format": 2}', "update MegaContext"),
        ('{"format": "1"}', "must say its format"), ('{"format": 1, "status": "odd"}', "status must be one of"),
        ("\udcff", "readable run.json"),
    ],
)  # fmt: skip
def test_a_damaged_or_newer_run_is_refused_with_a_sentence(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=words):
        RunStore(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("answers.jsonl", "no json\n"), ("answers.jsonl", '{"question": "one"}\n'), ("results.json", "{"),
        ("recipe.toml", "= 3"), ("telemetry/entry/part-000001.parquet", "no parquet"),
    ],
)  # fmt: skip
def test_a_damaged_part_of_a_run_is_a_sentence(run_copy: Path, name: str, content: str) -> None:
    (run_copy / name).write_text(content)
    with pytest.raises(ConfigError, match=name.split("/")[-1].split(".")[0]):
        RunStore(run_copy)


def test_results_of_another_shape_are_a_sentence(run_copy: Path) -> None:
    (run_copy / "results.json").write_text(json.dumps({"rows": [3]}))
    with pytest.raises(ConfigError, match="rows"):
        RunStore(run_copy).rows()


def test_a_run_that_is_deleted_while_open_becomes_a_sentence(run_copy: Path) -> None:
    store = RunStore(run_copy)
    shutil.rmtree(run_copy)
    with pytest.raises(ConfigError, match="must hold run"):
        store.refresh()


def test_reading_a_run_changes_nothing_in_it(finished_run: Path) -> None:
    def listing() -> list[tuple[str, int, int]]:
        files = sorted(path for path in finished_run.rglob("*"))
        return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]

    before = listing()
    store = RunStore(finished_run)
    store.refresh(), store.rows(), store.depth(), store.questions("16k-0"), store.ingest_summary()
    assert listing() == before


def test_groups_are_named_by_what_stands_before_the_last_hyphen() -> None:
    assert [group_of(name) for name in ("16k-3", "book-0", "a-b-1", "plain")] == [
        "16k",
        "book",
        "a-b",
        "plain",
    ]


def test_the_maker_of_runs_repeats_itself(tmp_path: Path) -> None:
    one, other = (RunStore(make_run(tmp_path / name, questions=3, traced=1)) for name in ("one", "other"))
    drop = pl.selectors.exclude("latency_ms")
    for kind in ("entry", "answer", "block_score"):
        assert one.frame(kind).select(drop).equals(other.frame(kind).select(drop))
