"""Texts in the rows of parquet tables, a few rows in memory at a time.

Deliberately knows no other column than `text`, and takes every file for a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megacontext.sources.refusal import Unusable, unreadable
from megacontext.sources.source import BLANKS, CHUNK_BYTES, Skipped, Source

if TYPE_CHECKING:
    import polars as pl

TEXT_COLUMN = "text"

_BATCH_BYTES = 1 << 23
_BATCH_ROWS = 4096


class TextRows(Sequence[Source]):
    """The rows of one table that hold text, as sources named `table.parquet#row`, rows counted from 0."""

    def __init__(self, name: str, modified: datetime, path: Path, file_bytes: int):
        self._name, self._modified, self._column = name, modified, _TextColumn(path, file_bytes)
        self.skipped: list[Skipped] = []
        self._rows, self._sizes = self._check()
        if len(self._rows) == 0:
            raise Unusable("a table without text", "hold text", "has no row that does", "give another file")

    def _check(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and UTF-8 bytes of the rows with text; the others are noted in `skipped`."""
        column = self._column
        sizes = np.zeros(column.num_rows, dtype=np.uint32)
        blank, binary = np.zeros((2, column.num_rows), dtype=bool)
        for number, start in enumerate(range(0, column.num_rows, column.batch_rows)):
            texts = column.batch(number).fill_null("")
            here = slice(start, start + len(texts))
            sizes[here] = texts.str.len_bytes()
            blank[here] = texts.str.strip_chars(BLANKS) == ""
            binary[here] = texts.str.contains("\0", literal=True)
        for why, rows in (("without text", blank), ("with zero bytes", binary)):
            if rows.any():
                report = f"{rows.sum():,} of {len(rows):,} rows {why}, the first #{rows.argmax()}"
                self.skipped.append(Skipped(self._name, report))
        kept = np.flatnonzero(~(blank | binary))
        return kept, sizes[kept]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Source:  # type: ignore[override]
        row = int(self._rows[index])
        return _RowSource(
            name=f"{self._name}#{row}",
            media_type="text/plain",
            modified=self._modified,
            size_bytes=int(self._sizes[index]),
            column=self._column,
            row=row,
        )


@dataclass(frozen=True, kw_only=True)
class _RowSource(Source):
    column: _TextColumn = field(repr=False)
    row: int = field(repr=False)

    def _content(self) -> Iterator[str]:
        text = self.column.text(self.row)
        for start in range(0, len(text), CHUNK_BYTES):
            yield text[start : start + CHUNK_BYTES]


class _TextColumn:
    """The texts of one parquet table, read a few at a time: their order and places never change."""

    def __init__(self, path: Path, file_bytes: int):
        import polars as pl  # a fifth of a second that only tables cost

        with _polars_refusals():
            # The path is one file, whatever characters and folders it is made of.
            table = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            schema = table.collect_schema()
            if schema.get(TEXT_COLUMN) != pl.String:
                raise Unusable(
                    f"no column {TEXT_COLUMN!r} of strings",
                    f"have a column {TEXT_COLUMN!r} of strings to be read as a table",
                    f"has {', '.join(f'{name!r} of {kind}' for name, kind in schema.items())}",
                    "rename or convert the one that holds the texts",
                )
            self.num_rows: int = table.select(pl.len()).collect().item()
        self.batch_rows = max(1, min(_BATCH_ROWS, self.num_rows * _BATCH_BYTES // file_bytes))
        self._texts = table.select(TEXT_COLUMN)
        self._latest: tuple[int, list[str]] = (-1, [])

    def batch(self, number: int) -> pl.Series:
        """The texts of rows [number * batch_rows, (number + 1) * batch_rows). Raises Unusable."""
        with _polars_refusals():
            rows = self._texts.slice(number * self.batch_rows, self.batch_rows).collect()
        return rows.get_column(TEXT_COLUMN)

    def text(self, row: int) -> str:
        """Of one row. The batch around it is kept, since rows are mostly read in order."""
        number, place = divmod(row, self.batch_rows)
        latest, texts = self._latest
        if number != latest:
            texts = self.batch(number).to_list()
            self._latest = number, texts
        if place >= len(texts) or texts[place] is None:
            raise Unusable("changed", "stay as it was found", "was changed since", "begin again")
        return texts[place]


@contextmanager
def _polars_refusals() -> Iterator[None]:
    import polars as pl

    try:
        yield
    except OSError as problem:
        raise unreadable(problem) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as problem:
        # Whatever damage polars meets; a panic of it is no Exception. One kind escapes: a damaged length for which it
        # asks for more memory than there is ends the process.
        raise Unusable(
            "no sound parquet table",
            "be a sound parquet table",
            f"is not ({(str(problem).splitlines() or ['no reason given'])[0][:120]})",
            "write it again",
        ) from None
