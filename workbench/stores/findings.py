"""What a run found, in one form whatever it measured: tables that lead to samples, means with intervals, last values.

results.json differs from suite to suite. Its tables of text are shown as they are; here each row, and each cell that
stands for a part of the row, is given the conditions that its samples meet. Means with intervals become one frame that
one plot can draw. Deliberately ignorant of how the figures were computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from workbench.stores.curves import RunCurves
from workbench.stores.run import RunStore

ESTIMATE = {
    "label": pl.String(), "series": pl.String(), "mean": pl.Float64(), "low": pl.Float64(), "high": pl.Float64(),
    "n": pl.Int64(),
}  # fmt: skip
_NAMES = {
    "cell": "group",
    "arm": "arm",
    "model": "model",
    "kind": "kind",
    "genre": "genre",
    "history": "group",
}
"""Columns of tables whose values are those of a column of the samples."""
_SEED, _DEPTH = re.compile(r"seed (\d+)$"), re.compile(r"(\d\.\d)-(\d\.\d)$")
BY_KIND = "By kind"
SCORES = "Scores"


@dataclass(frozen=True)
class ResultTable:
    """A table of text. `places[row][column]` are the conditions of the samples behind a cell, None for none."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]
    places: list[list[dict[str, str] | None]] = field(default_factory=list)
    own: list[dict[str, str] | None] = field(default_factory=list)
    """Conditions of the samples behind a row; None where no sample is."""
    texts: int = 2
    """Leading columns that hold names."""

    @property
    def slug(self) -> str:
        """The title as an address has it."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:60]


@dataclass(frozen=True)
class Estimates:
    """Means with their intervals: the columns of ESTIMATE, a series a row of the plot, under the label of its group."""

    title: str
    note: str
    axis: str
    frame: pl.DataFrame


@dataclass(frozen=True)
class LastValue:
    """Where a curve of the run has come to."""

    title: str
    unit: str
    kind: str
    last: float
    lowest: float
    highest: float
    at: float
    over: str
    format: str


def tables(store: RunStore) -> list[ResultTable]:
    """Every table of the run, in its order; those of answers so far or of a run that wrote none are made here."""
    return [_placed(table, store) for table in (_written(store) or list(_made(store)))]


def estimates(store: RunStore) -> list[Estimates]:
    """What the run measured as means with intervals, apart from shares of right answers. Empty where it did not."""
    try:
        found = list(_estimates(store.info.kind, store.results))
    except (AttributeError, KeyError, TypeError, ValueError):
        # Of another version, or written by hand: the tables say the same as text.
        return []
    return [one for one in found if len(one.frame)]


def metrics(store: RunStore) -> list[tuple[str, str]]:
    """Figures that a training run ended with, in dotted names; none of another run."""
    return [(name, _figure(value)) for name, value in _flat("", store.results.get("metrics") or {})]


def last_values(curves: RunCurves) -> list[LastValue]:
    """Every curve's last value, with the range that it has been through."""
    found = []
    for metric in curves.metrics():
        points = curves.points(metric, "step")
        known = points.value[np.isfinite(points.value)]
        if len(known):
            found.append(
                LastValue(
                    metric.title, metric.unit, metric.kind, float(points.smooth[-1]), float(known.min()),
                    float(known.max()), float(points.x[-1]), metric.stands_over("step")[1],
                    metric.format,
                )
            )  # fmt: skip
    return found


# Tables ------------------------------------------------------------------------------------------------------


def _written(store: RunStore) -> list[ResultTable]:
    return [
        ResultTable(table["title"], table["note"], table["columns"], table["rows"]) for table in store.tables
    ]


def _made(store: RunStore) -> Iterator[ResultTable]:
    """Scores and depths of a run that wrote no tables: a demonstration, or an evaluation that goes on."""
    rows = store.rows().to_dicts()
    if not rows:
        return
    yield ResultTable(
        SCORES,
        "" if store.final else "So far; intervals come at the end.",
        ["cell", "arm", "right", "n", "score", "95 %", "of oracle", "plain", "superseded", "evidence read",
         "positions"],
        [
            [row["history"], row["arm"], _whole(row["correct"]), _whole(row["n"]), _share(row["accuracy"]),
             "–" if row["low"] is None else f"{_share(row['low'])}–{_share(row['high'])}", _share(row["of_oracle"]),
             _share(row["plain_accuracy"]), _share(row["superseded_accuracy"]), _share(row["hit_rate"]),
             _whole(row["cost_positions_mean"])]
            for row in rows
        ],
    )  # fmt: skip
    depth = store.depth().sort("depth_bin", maintain_order=True).to_dicts()
    heads = {f"{row['depth_low']:.1f}-{row['depth_high']:.1f}": None for row in depth}
    lines: dict[tuple[str, str], dict[str, str]] = {(row["history"], row["arm"]): {} for row in rows}
    for row in depth:
        head = f"{row['depth_low']:.1f}-{row['depth_high']:.1f}"
        lines.setdefault((row["history"], row["arm"]), {})[head] = _share(row["accuracy"])
    if heads:
        yield ResultTable(
            "By depth", "Place of the fact, in fifths of the history: 0 is its oldest end.", ["cell", "arm", *heads],
            [[*place, *(line.get(head, "–") for head in heads)] for place, line in lines.items()],
        )  # fmt: skip


def _placed(table: ResultTable, store: RunStore) -> ResultTable:
    """The table with the samples behind its rows and cells."""
    known = set(store.samples.frame.columns)
    own: list[dict[str, str] | None] = []
    places: list[list[dict[str, str] | None]] = []
    for row in table.rows:
        conditions = _conditions(table.columns, row, known) if len(store.samples.frame) else None
        own.append(conditions)
        places.append(
            [
                None
                if conditions is None or (part := _part(table, head, known)) is None
                else conditions | part
                for head in table.columns[: len(row)]
            ]
        )
    texts = next((at for at, head in enumerate(table.columns) if not _is_name(head)), len(table.columns))
    return ResultTable(table.title, table.note, table.columns, table.rows, places, own, texts)


def _conditions(columns: list[str], row: list[str], known: set[str]) -> dict[str, str]:
    found = {}
    for head, cell in zip(columns, row, strict=False):
        if head == "text" and {"genre", "text"} <= known and ", " in cell:
            found["genre"], _, found["text"] = cell.rpartition(", ")
        elif (column := _NAMES.get(head)) in known and column is not None:
            found[column] = cell
    return found


def _part(table: ResultTable, head: str, known: set[str]) -> dict[str, str] | None:
    """What a column adds to the conditions of its row; None where it stands for all of it."""
    if (seed := _SEED.match(head)) and "seed" in known:
        return {"seed": seed[1]}
    if _DEPTH.match(head) and "depth" in known:
        return {"depth": head}
    if "kind" in known and (
        (table.title == BY_KIND and head not in ("cell", "arm", "n")) or head in ("plain", "superseded")
    ):
        return {"kind": head}
    return None


def _is_name(head: str) -> bool:
    return head in _NAMES or head in ("text", "in its place", "gists", "vectors", "over", "H")


# Estimates ---------------------------------------------------------------------------------------------------


def _estimates(kind: str, results: Mapping[str, Any]) -> Iterator[Estimates]:
    cells = results.get("cells") or []
    if cells and "horizon" in cells[0] and "arms" in cells[0]:
        yield from _delta_nll(cells)
    elif cells and "in_place" in cells[0]:
        yield Estimates(
            "What stands in a span's place", "Nats a token more than behind the span's own tokens.",
            "delta-NLL, nats a token",
            _frame((_span_label(cell), cell["in_place"], cell["delta"], cell["spans"]) for cell in cells),
        )  # fmt: skip
    elif cells and "arms" in cells[0]:
        yield Estimates(
            "At equal positions", "Against as many recent tokens (drop); below 0 is better.",
            "minus drop, nats a token",
            _frame(
                (f"{cell['genre']}, {cell['text']} · {cell['model']}", arm, lost["minus_drop"], cell["windows"])
                for cell in cells
                for arm, lost in cell["arms"].items()
                if arm != "drop"
            ),
        )  # fmt: skip
    arms = results.get("arms")
    if isinstance(arms, list) and arms and "mean" in arms[0]:
        yield Estimates(
            "At equal positions", "Against as many recent tokens (drop); below 0 is better.",
            "minus drop, nats a token",
            _frame(
                (str(results.get("genre", "")), row["arm"], row, results.get("windows"))
                for row in arms
                if row["arm"] != "drop"
            ),
        )  # fmt: skip
    for name, title, axis in _AUDITED:
        rows = [row for row in results.get("audit") or [] if row.get(name) is not None]
        yield Estimates(
            title, "Means over questions with 95 % intervals.", axis,
            _frame(
                (row["history"], row["arm"],
                 {"mean": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}, row["n"])
                for row in rows
            ),
        )  # fmt: skip


_AUDITED = (
    ("spearman", "Scores against utilities", "rank correlation"),
    ("first", "Most useful block scored highest", "share of questions"),
    ("regret_nats", "Regret of the chosen context", "nats of an answer"),
)


def _delta_nll(cells: list[dict[str, Any]]) -> Iterator[Estimates]:
    longest = max(cell["horizon"] for cell in cells)
    cells = [cell for cell in cells if cell["horizon"] == longest]
    for against, title, note in (
        ("minus_full", "Delta-NLL by level and genre", "Against full attention: what each arm loses of it."),
        (
            "minus_drop",
            "Against as many recent tokens",
            "What each arm is worth beside drop; below 0 is better.",
        ),
    ):
        skipped = against.removeprefix("minus_")
        yield Estimates(
            title, f"{note} Over the next {longest} tokens.", f"{against.replace('_', ' ')}, nats a token",
            _frame(
                (f"{cell['cell']} · {cell['model']}", arm, lost[against], lost["windows"])
                for cell in cells
                for arm, lost in cell["arms"].items()
                if arm != skipped
            ),
        )  # fmt: skip


def _frame(rows: Iterable[tuple[str, str, Mapping[str, Any], int | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "label": label,
                "series": series,
                "mean": at["mean"],
                "low": at["low"],
                "high": at["high"],
                "n": n,
            }
            for label, series, at, n in rows
        ],
        schema=ESTIMATE,
    )


def _span_label(cell: Mapping[str, Any]) -> str:
    return f"{cell['cell']} · {cell['model']}"


def _flat(above: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _flat(f"{above}.{key}" if above else str(key), below)
    else:
        yield above, value


def _figure(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.5g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
