"""Results as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table


def plain_table(*columns: str) -> Table:
    """An empty table with these headings: the first column to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def results_tables(results: dict[str, Any], budget: int) -> list[Table]:
    """One table for each group of histories of a first-light run's results.json."""
    tables = []
    for group in dict.fromkeys(row["history"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["history"] == group]
        table = Table(
            title=f"{group}: {rows[0]['history_tokens']:,} tokens of history, budget {budget} positions",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("arm", no_wrap=True, vertical="bottom")
        # Headings in two lines keep the table within 80 columns, where pipes and small terminals end.
        for column in (
            "n",
            "accuracy",
            "95 %",
            "of\noracle",
            "plain",
            "super-\nseded",
            "block\nfound",
            "posi-\ntions",
        ):
            table.add_column(column, justify="right", no_wrap=True)
        best = max((row["accuracy"] for row in rows if row["arm"] != "oracle"), default=None)
        for row in rows:
            table.add_row(
                row["arm"],
                str(row["n"]),
                _share(row["accuracy"]),
                f"{_share(row['low'])}-{_share(row['high'])}",
                _share(row["of_oracle"]),
                _share(row["plain_accuracy"]),
                _share(row["superseded_accuracy"]),
                _share(row["hit_rate"]),
                f"{row['cost_positions_mean']:.0f}",
                style="bold" if row["accuracy"] == best and row["arm"] != "oracle" else None,
            )
        tables.append(table)
    return tables


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".removeprefix("0")
