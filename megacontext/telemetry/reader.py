"""Reads telemetry as polars frames, of finished runs and of runs that go on. Reading never writes.

Parts appear whole and never change, so a reader needs no lock: it lists them, reads those it has not seen,
and is up to date. Deliberately ignorant of what the rows mean.
"""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from megacontext.errors import ConfigError
from megacontext.telemetry.schema import SCHEMA_VERSION, columns_of, conformed, empty
from megacontext.telemetry.writer import VERSION_KEY, part_number


def read(folder: str | Path, kind: str) -> pl.DataFrame:
    """All rows of one kind so far, in the order of their emission; none where nothing is there yet.

    Raises ConfigError for an unknown kind, and for a part that is damaged or of a newer schema.
    """
    return TelemetryTail(folder).new(kind)


def newest_rows(folder: str | Path, kind: str) -> pl.DataFrame:
    """The rows of the newest part of one kind: what a run recorded last, at the price of one small file.

    Raises ConfigError as `read` does.
    """
    columns_of(kind)
    parts = _parts_after(Path(folder) / kind, 0)
    return _read_part(parts[-1][1], kind) if parts else empty(kind)


class TelemetryTail:
    """Follows the telemetry in `folder`, which need not exist yet: each call gives what is new."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._seen: dict[str, int] = {}

    def new(self, kind: str) -> pl.DataFrame:
        """Rows of `kind` since the last call for it, as emitted. Raises ConfigError as `read` does."""
        columns_of(kind)
        fresh = _parts_after(self.folder / kind, self._seen.get(kind, 0))
        if not fresh:
            return empty(kind)
        rows = pl.concat([_read_part(path, kind) for _, path in fresh])
        # Only now: after a failure the next call starts from the same place.
        self._seen[kind] = fresh[-1][0]
        return rows


def _parts_after(folder: Path, seen: int) -> list[tuple[int, Path]]:
    try:
        numbered = [(part_number(path), path) for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((number, path) for number, path in numbered if number is not None and number > seen)


def _read_part(path: Path, kind: str) -> pl.DataFrame:
    try:
        # The whole file at once: it holds a few thousand rows, and no map of it stays open afterwards.
        content = path.read_bytes()
        version = int(pl.read_parquet_metadata(io.BytesIO(content)).get(VERSION_KEY, "0"))
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"this version reads telemetry up to schema {SCHEMA_VERSION}, {path} has {version}; "
                "update MegaContext"
            )
        return conformed(kind, pl.read_parquet(io.BytesIO(content)))
    except (OSError, ValueError, pl.exceptions.PolarsError) as problem:
        raise ConfigError(
            f"a telemetry part must be a whole parquet file, {path} is not ({problem}); "
            "remove it or run again"
        ) from None
