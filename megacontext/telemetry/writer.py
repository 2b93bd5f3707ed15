"""Writes telemetry as small parquet parts, so that a run can be watched while it goes on.

An open parquet file cannot be read, for its footer comes last. So rows are gathered in memory and written as
whole files, `<folder>/<kind>/part-000001.parquet` and on, each under another name first and then renamed: a
reader sees a part whole or not at all. Parts are numbered upwards and never changed, which lets a reader ask
for what is new.

Deliberately without a thread: rows wait for the next `emit` after `flush_seconds`, for `flush` or for
`close`. One writer at a time per folder. Parts are not synced to the disk: a power cut may cost the last
ones.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol

import polars as pl

from megacontext.errors import ConfigError
from megacontext.telemetry.schema import COLUMNS, SCHEMA_VERSION, SCHEMAS, checked_frame, checked_row

PART_PREFIX, PART_SUFFIX = "part-", ".parquet"
VERSION_KEY = "megacontext.telemetry.version"
"""Key of the schema version in the metadata of each part."""


class Telemetry(Protocol):
    """Where events go. `enabled` lets a caller skip work that only telemetry would want."""

    enabled: bool

    def emit(self, kind: str, /, **columns: object) -> None: ...

    def emit_frame(self, kind: str, frame: pl.DataFrame) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class NullTelemetry:
    """Records nothing, checks nothing and costs nothing."""

    enabled = False

    def emit(self, kind: str, /, **columns: object) -> None:
        """Nothing happens."""

    def emit_frame(self, kind: str, frame: pl.DataFrame) -> None:
        """Nothing happens."""

    def flush(self) -> None:
        """Nothing happens."""

    def close(self) -> None:
        """Nothing happens."""

    def __enter__(self) -> NullTelemetry:
        return self

    def __exit__(self, *problem: object) -> None:
        pass


class _Pending:
    """Rows of one kind that wait to be written, in the order in which they came."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.frames: list[pl.DataFrame] = []
        self.count = 0

    def seal(self, kind: str) -> None:
        if self.rows:
            self.frames.append(pl.DataFrame(self.rows, schema=SCHEMAS[kind]))
            self.rows = []


class TelemetryWriter:
    """Gathers events and writes them to `folder`. A context manager, which writes what is left also on an
    exception.

    A part is written once a kind has `max_rows` rows, and all kinds are written at the first event that comes
    `flush_seconds` or more after the last time. Continues the numbering of parts that are already there.
    """

    enabled = True

    def __init__(self, folder: str | Path, flush_seconds: float = 1.0, max_rows: int = 5000):
        if not flush_seconds >= 0 or max_rows < 1:
            raise ConfigError(
                f"telemetry needs flush_seconds >= 0 and max_rows >= 1, got {flush_seconds} and {max_rows}; "
                "raise them"
            )
        self.folder = Path(folder)
        self._flush_seconds, self._max_rows = flush_seconds, max_rows
        self._pending = {kind: _Pending() for kind in COLUMNS}
        self._last_part: dict[str, int] = {}
        self._last_flush_s = time.monotonic()
        self._closed = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ConfigError(
                f"telemetry needs a folder that can be written, {self.folder} is none ({problem.strerror}); "
                "give the run another name or place"
            ) from None

    def emit(self, kind: str, /, **columns: object) -> None:
        """Record one event. Columns left out are null. ConfigError for a wrong kind, column or type."""
        row = checked_row(kind, columns)
        pending = self._open(kind)
        pending.rows.append(row)
        self._grown(kind, 1)

    def emit_frame(self, kind: str, frame: pl.DataFrame) -> None:
        """Record one event per row of `frame`; all or, with a ConfigError as of `emit`, none of them."""
        rows = checked_frame(kind, frame)
        pending = self._open(kind)
        pending.seal(kind)
        pending.frames.append(rows)
        self._grown(kind, rows.height)

    def flush(self) -> None:
        """Write everything that waits. Rows whose writing fails go on waiting."""
        for kind in self._pending:
            self._write(kind)
        self._last_flush_s = time.monotonic()

    def close(self) -> None:
        """Write everything that waits; afterwards nothing more is taken. Closing twice does no harm."""
        self.flush()
        self._closed = True

    def __enter__(self) -> TelemetryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, kind: str) -> _Pending:
        if self._closed:
            raise ConfigError(
                f"closed telemetry takes no events, got one of kind {kind!r}; emit before closing"
            )
        return self._pending[kind]

    def _grown(self, kind: str, rows: int) -> None:
        pending = self._pending[kind]
        pending.count += rows
        if pending.count >= self._max_rows:
            self._write(kind)
        if time.monotonic() - self._last_flush_s >= self._flush_seconds:
            self.flush()

    def _write(self, kind: str) -> None:
        pending = self._pending[kind]
        if not pending.count:
            return
        pending.seal(kind)
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        number = self._last_part.get(kind, last_part(folder)) + 1
        name = f"{PART_PREFIX}{number:06d}{PART_SUFFIX}"
        # Hidden and with another ending: no reader's pattern takes it for a part.
        aside = folder / f".{name}.{os.getpid()}.tmp"
        try:
            pl.concat(pending.frames).write_parquet(aside, metadata={VERSION_KEY: str(SCHEMA_VERSION)})
            os.replace(aside, folder / name)
        finally:
            aside.unlink(missing_ok=True)
        self._last_part[kind] = number
        self._pending[kind] = _Pending()


def part_number(path: Path) -> int | None:
    """The number in the name of a part; None for any other file."""
    name = path.name
    if not (name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)):
        return None
    digits = name[len(PART_PREFIX) : -len(PART_SUFFIX)]
    return int(digits) if digits.isascii() and digits.isdigit() else None


def last_part(folder: Path) -> int:
    """The highest number of a part in `folder`, 0 where there is none."""
    return max((part_number(path) or 0 for path in folder.iterdir()), default=0) if folder.is_dir() else 0
