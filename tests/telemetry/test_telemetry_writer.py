"""The writer loses no row that it took, writes whole parts only, and leaves nothing half-written."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import ConfigError
from megacontext.telemetry import SCHEMA_VERSION, NullTelemetry, Telemetry, TelemetryWriter, read
from megacontext.telemetry.writer import VERSION_KEY, last_part

NEVER_S = 1e9


def parts(folder: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (folder / kind).iterdir()) if (folder / kind).is_dir() else []


def steps(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"step": numbers, "stage": ["lm"] * len(numbers)}, schema={"step": pl.Int64, "stage": pl.String}
    )


@given(
    chunks=st.lists(st.integers(0, 7) | st.just(-1), max_size=30),
    max_rows=st.integers(1, 9),
    flush_seconds=st.sampled_from([0.0, NEVER_S]),
)
def test_rows_come_back_in_order_however_they_were_emitted(
    chunks: list[int], max_rows: int, flush_seconds: float, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("telemetry")
    emitted = 0
    with TelemetryWriter(folder, flush_seconds=flush_seconds, max_rows=max_rows) as telemetry:
        for chunk in chunks:  # -1 stands for a single row, anything else for a frame of that many
            if chunk < 0:
                telemetry.emit("train", step=emitted, stage="lm")
            else:
                telemetry.emit_frame("train", steps(*range(emitted, emitted + chunk)))
            emitted += abs(chunk)
    assert read(folder, "train")["step"].to_list() == list(range(emitted))


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 6, 1023])
def test_a_part_is_written_whenever_max_rows_have_come(tmp_path: Path, rows: int):
    with TelemetryWriter(tmp_path, flush_seconds=NEVER_S, max_rows=5) as telemetry:
        for step in range(rows):
            telemetry.emit("train", step=step, stage="lm")
        assert len(parts(tmp_path, "train")) == rows // 5
    assert len(parts(tmp_path, "train")) == -(-rows // 5)


def test_after_flush_seconds_the_next_event_writes_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("megacontext.telemetry.writer.time.monotonic", lambda: now[0])
    telemetry = TelemetryWriter(tmp_path, flush_seconds=1.0)
    telemetry.emit("ingest", history="16k-0")
    assert parts(tmp_path, "ingest") == []
    now[0] += 1.0
    telemetry.emit("train", step=0, stage="lm")
    assert parts(tmp_path, "ingest") == parts(tmp_path, "train") == ["part-000001.parquet"]


def test_rows_survive_an_exception_which_goes_on_its_way(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), TelemetryWriter(tmp_path, flush_seconds=NEVER_S) as telemetry:
        telemetry.emit("train", step=7, stage="lm", loss_nats=float("nan"))
        _ = 1 / 0
    assert read(tmp_path, "train")["step"].to_list() == [7]


def test_a_failed_write_leaves_no_file_and_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    telemetry = TelemetryWriter(tmp_path, flush_seconds=NEVER_S)
    telemetry.emit("train", step=0, stage="lm")

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr("megacontext.telemetry.writer.os.replace", full)
        telemetry.flush()
    assert parts(tmp_path, "train") == []
    telemetry.close()
    assert read(tmp_path, "train")["step"].to_list() == [0]


def test_a_second_writer_continues_the_numbering(tmp_path: Path):
    for step in range(3):
        with TelemetryWriter(tmp_path) as telemetry:
            telemetry.emit("train", step=step, stage="lm")
    assert last_part(tmp_path / "train") == 3
    assert read(tmp_path, "train")["step"].to_list() == [0, 1, 2]


def test_a_part_carries_the_version_of_its_schema(tmp_path: Path):
    with TelemetryWriter(tmp_path) as telemetry:
        telemetry.emit("train", step=0, stage="lm")
    metadata = pl.read_parquet_metadata(tmp_path / "train" / "part-000001.parquet")
    assert metadata[VERSION_KEY] == str(SCHEMA_VERSION)


def test_a_refused_event_leaves_the_rows_around_it_alone(tmp_path: Path):
    with TelemetryWriter(tmp_path) as telemetry:
        telemetry.emit("train", step=0, stage="lm")
        for refused in ({"step": 1}, {"step": 1, "stage": "lm", "loss": 2.0}, {"step": "1", "stage": "lm"}):
            with pytest.raises(ConfigError):
                telemetry.emit("train", **refused)
        with pytest.raises(ConfigError):
            telemetry.emit_frame("train", steps(1, 2).rename({"step": "stepp"}))
        with pytest.raises(ConfigError):
            telemetry.emit("trainn", step=1)
        telemetry.emit("train", step=3, stage="lm")
    assert read(tmp_path, "train")["step"].to_list() == [0, 3]


def test_closed_telemetry_takes_no_events_and_may_be_closed_again(tmp_path: Path):
    telemetry = TelemetryWriter(tmp_path)
    telemetry.close()
    telemetry.close()
    with pytest.raises(ConfigError, match="closed telemetry"):
        telemetry.emit("train", step=0, stage="lm")


def test_settings_and_places_that_cannot_work_are_refused(tmp_path: Path):
    for settings in ({"flush_seconds": -1.0}, {"max_rows": 0}, {"flush_seconds": float("nan")}):
        with pytest.raises(ConfigError, match="flush_seconds >= 0 and max_rows >= 1"):
            TelemetryWriter(tmp_path, **settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="folder that can be written"):
        TelemetryWriter(tmp_path / "file" / "telemetry")


def test_null_telemetry_takes_anything_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    sink: Telemetry = NullTelemetry()
    with NullTelemetry() as telemetry:
        telemetry.emit("no such kind", nonsense=1)
        telemetry.emit_frame("no such kind", pl.DataFrame())
        telemetry.flush()
    sink.close()
    assert not sink.enabled and list(tmp_path.iterdir()) == []
