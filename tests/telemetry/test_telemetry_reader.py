"""Readers see whole parts, each once, also while a writer is at work."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from megacontext.errors import ConfigError
from megacontext.telemetry import SCHEMA_VERSION, SCHEMAS, TelemetryTail, TelemetryWriter, read
from megacontext.telemetry.reader import newest_rows
from megacontext.telemetry.writer import VERSION_KEY

WRITE_STEPS = """
import sys
from megacontext.telemetry import TelemetryWriter
with TelemetryWriter(sys.argv[1], flush_seconds=0.0) as telemetry:
    for step in range(300):
        telemetry.emit("train", step=step, stage="lm")
"""


def write(folder: Path, *steps: int) -> None:
    with TelemetryWriter(folder) as telemetry:
        for step in steps:
            telemetry.emit("train", step=step, stage="lm")


@pytest.mark.parametrize("kind", list(SCHEMAS))
def test_a_run_that_has_not_begun_reads_as_an_empty_frame(tmp_path: Path, kind: str):
    frame = read(tmp_path / "absent", kind)
    assert frame.height == 0 and dict(frame.schema) == SCHEMAS[kind]


def test_an_unknown_kind_is_refused_also_when_nothing_is_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown telemetry kind 'trian'"):
        read(tmp_path, "trian")


def test_files_that_are_no_parts_are_left_alone(tmp_path: Path):
    write(tmp_path, 0)
    for name in (".part-000002.parquet.99.tmp", "part-000002.parquet.tmp", "part-two.parquet", "notes.txt"):
        (tmp_path / "train" / name).write_bytes(b"half a par")
    assert read(tmp_path, "train")["step"].to_list() == [0]


def test_a_tail_gives_every_row_once_and_kinds_do_not_disturb_one_another(tmp_path: Path):
    tail = TelemetryTail(tmp_path)
    assert tail.new("train").height == 0
    write(tmp_path, 0, 1)
    assert tail.new("ingest").height == 0
    assert tail.new("train")["step"].to_list() == [0, 1]
    assert tail.new("train").height == 0
    write(tmp_path, 2)
    assert tail.new("train")["step"].to_list() == [2]


def test_part_numbers_count_as_numbers_beyond_their_six_digits(tmp_path: Path):
    write(tmp_path, 0)
    (tmp_path / "train" / "part-000001.parquet").rename(tmp_path / "train" / "part-999999.parquet")
    tail = TelemetryTail(tmp_path)
    tail.new("train")
    write(tmp_path, 1)
    assert tail.new("train")["step"].to_list() == [1]
    assert read(tmp_path, "train")["step"].to_list() == [0, 1]


def test_a_tail_follows_another_process_without_loss_or_repetition(tmp_path: Path):
    tail, seen = TelemetryTail(tmp_path), []
    writer = subprocess.Popen([sys.executable, "-c", WRITE_STEPS, str(tmp_path)])
    while writer.poll() is None:
        seen += tail.new("train")["step"].to_list()
        time.sleep(0.005)
    seen += tail.new("train")["step"].to_list()
    assert writer.returncode == 0 and seen == list(range(300))


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1 cut short"])
def test_a_damaged_part_is_a_sentence_and_a_tail_does_not_step_over_it(tmp_path: Path, content: bytes):
    write(tmp_path, 0)
    broken = tmp_path / "train" / "part-000002.parquet"
    broken.write_bytes(content)
    tail = TelemetryTail(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigError, match="must be a whole parquet file"):
            tail.new("train")
    broken.unlink()
    assert tail.new("train")["step"].to_list() == [0]


def test_a_newer_schema_is_refused_and_an_older_one_filled_with_nulls(tmp_path: Path):
    (tmp_path / "train").mkdir()
    part = tmp_path / "train" / "part-000001.parquet"
    frame = pl.DataFrame({"step": [1], "stage": ["lm"]})
    frame.write_parquet(part, metadata={VERSION_KEY: str(SCHEMA_VERSION + 1)})
    with pytest.raises(ConfigError, match=f"up to schema {SCHEMA_VERSION}.*update MegaContext"):
        read(tmp_path, "train")
    frame.write_parquet(part, metadata={VERSION_KEY: str(SCHEMA_VERSION)})
    assert dict(read(tmp_path, "train").schema) == SCHEMAS["train"]


def test_reading_writes_nothing(tmp_path: Path):
    write(tmp_path, 0)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    read(tmp_path, "train"), read(tmp_path, "answer")
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_parts_of_several_versions_are_read_in_their_order(tmp_path: Path):
    with TelemetryWriter(tmp_path, flush_seconds=0) as writer:
        for step in range(5):
            writer.emit("validation", step=step, bits_per_byte=1.0)
    older = tmp_path / "validation" / "part-000003.parquet"
    pl.read_parquet(older).select("step", "bits_per_byte").write_parquet(older, metadata={VERSION_KEY: "2"})
    rows = read(tmp_path, "validation")
    assert rows["step"].to_list() == [0, 1, 2, 3, 4] and rows.columns == list(SCHEMAS["validation"])


def test_the_newest_rows_are_those_of_the_last_part(tmp_path: Path):
    assert newest_rows(tmp_path, "validation").is_empty()
    with TelemetryWriter(tmp_path, flush_seconds=0) as writer:
        for step in range(3):
            writer.emit("validation", step=step, bits_per_byte=1.0)
    assert newest_rows(tmp_path, "validation")["step"].to_list() == [2]
