"""From the answers of an evaluation to its tables: scores with intervals, by seed, by depth, by kind, and retention.

A share comes with its Wilson interval at 95 %, pooled over the seeds; the seeds stand beside it one by one. Retention
is the score of a cell over that of the first of its family (the shortest history, the fewest pairs). The worst depth is
the fifth of the history in which an arm scores least, over the mean of the fifths.

Figures are kept as numbers in `rows`, `depth`, `seeds`, `kinds` and `retention`; `tables` holds the same as text, for
whoever shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import polars as pl

from megacontext.evals.statistics import wilson
from megacontext.evals.suites import Cell
from megacontext.runtime.session import FocusConfig

DEPTH_BINS = 5
CLAIM = 200
"""Questions of a cell that a claim needs; fewer are a smoke test."""


class Asked(Protocol):
    """What is read of the configuration."""

    suite: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    focus: FocusConfig

    def cells(self) -> list[Cell]: ...


def results_of(
    config: Asked, answers: list[dict[str, Any]], ingest: list[dict[str, Any]], bytes_per_position: int
) -> dict[str, Any]:
    """What results.json says, from rows of answers with cell and seed, and rows of ingest with their group."""
    frame, cost = pl.DataFrame(answers), pl.DataFrame(ingest)
    depths = (pl.col("depth") * DEPTH_BINS).floor().clip(0, DEPTH_BINS - 1).cast(pl.Int64)
    frame = frame.with_columns(bin=depths)
    results: dict[str, Any] = {name: [] for name in ("rows", "depth", "seeds", "kinds")}
    for cell in config.cells():
        here = frame.filter(pl.col("cell") == cell.name)
        ceiling = here.filter(pl.col("arm") == "oracle")["correct"].mean()
        stored = cost.filter(pl.col("group") == cell.name)
        for arm in config.arms:
            mine = here.filter(pl.col("arm") == arm)
            at = {"history": cell.name, "arm": arm}
            fifths = [
                at
                | {
                    "depth_bin": number,
                    "depth_low": number / DEPTH_BINS,
                    "depth_high": (number + 1) / DEPTH_BINS,
                }
                | _share(mine.filter(pl.col("bin") == number))
                for number in range(DEPTH_BINS)
            ]
            row = at | _share(mine)
            results["rows"].append(
                row
                | {
                    "history_tokens": round(mine["history_tokens"].mean()),
                    "of_oracle": row["accuracy"] / ceiling if ceiling else None,
                    "hit_rate": mine["hit"].mean(),
                    "cost_positions_mean": mine["cost_positions"].mean(),
                    "bytes_per_step": mine["cost_positions"].mean() * bytes_per_position,
                    "ingest_s": stored["wall_s"].mean(),
                    "disk_bytes_per_token": stored["store_bytes"].sum() / stored["tokens"].sum(),
                    "worst_depth": worst_of_mean(fifths),
                }
                | {
                    f"{kind}_{what}": value
                    for kind in ("plain", "superseded")
                    for what, value in _share(mine.filter(pl.col("kind") == kind)).items()
                    if what in ("n", "accuracy")
                }
            )
            results["depth"] += fifths
            results["seeds"] += [
                at | {"seed": seed} | _share(mine.filter(pl.col("seed") == seed)) for seed in config.seeds
            ]
            kinds = mine["kind"].unique(maintain_order=True).to_list()
            if len(kinds) > 1:
                results["kinds"] += [
                    at | {"kind": kind} | _share(mine.filter(pl.col("kind") == kind)) for kind in kinds
                ]
    results["retention"] = retention(config.cells(), results["rows"])
    results["ingest"] = ingest
    results["sentences"] = sentences(config, results["rows"])
    results["tables"] = shown(results)
    return results


def _share(answers: pl.DataFrame) -> dict[str, Any]:
    """Right ones among some answers, with their interval."""
    right, tried = int(answers["correct"].sum()), answers.height
    low, high = wilson(right, tried)
    return {
        "n": tried,
        "correct": right,
        "accuracy": right / tried if tried else None,
        "low": low,
        "high": high,
    }


def worst_of_mean(fifths: list[dict[str, Any]]) -> float | None:
    """The lowest accuracy of the parts that were asked about over their mean; None where nothing was right."""
    scores = [part["accuracy"] for part in fifths if part["n"]]
    mean = sum(scores) / len(scores) if scores else 0.0
    return min(scores) / mean if mean else None


def retention(cells: list[Cell], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each arm's score in each cell over its score in the first cell of the family; None over nothing."""
    found = []
    by_place = {(row["history"], row["arm"]): row["accuracy"] for row in rows}
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    for family in dict.fromkeys(cell.family for cell in cells):
        first, *later = [cell.name for cell in cells if cell.family == family]
        for name in later:
            for arm in arms:
                start = by_place[first, arm]
                kept = by_place[name, arm] / start if start else None
                found.append({"history": name, "arm": arm, "first": first, "retention": kept})
    return found


def sentences(config: Asked, rows: list[dict[str, Any]]) -> list[str]:
    """Each cell in words: LensNet, its ceiling and its opponents, and whether the figures are many enough."""
    said = []
    for cell in config.cells():
        by_arm = {row["arm"]: row for row in rows if row["history"] == cell.name}
        leader = by_arm.get("lensnet") or next(iter(by_arm.values()))
        others = [
            f"{name} {by_arm[name]['accuracy']:.1%}"
            for name in ("oracle", "lensnet+bm25", "bm25", "recency", "gist-only")
            if name in by_arm and name != leader["arm"]
        ]
        smoke = "" if leader["n"] >= CLAIM else f" A smoke test: a claim needs {CLAIM} questions."
        said.append(
            f"{config.suite} {cell.name}: with {config.focus.budget} positions over {leader['history_tokens']:,} "
            f"tokens, {leader['arm']} answers {leader['accuracy']:.1%} of {leader['n']} questions "
            f"({leader['low']:.1%} to {leader['high']:.1%}){'; ' if others else ''}{', '.join(others)}.{smoke}"
        )
    return said


def shown(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables as text: title, note, columns and rows."""
    rows = results["rows"]
    worst = {(row["history"], row["arm"]): share(row["worst_depth"]) for row in rows}
    tables = [
        {
            "title": "Scores",
            "note": "Pooled over the seeds, with Wilson's 95 % intervals. Evidence read: all of it stood as tokens.",
            "columns": ["cell", "arm", "n", "score", "95 %", "of oracle", "evidence read"],
            "rows": [
                [row["history"], row["arm"], str(row["n"]), share(row["accuracy"]),
                 f"{share(row['low'])}-{share(row['high'])}", share(row["of_oracle"]), share(row["hit_rate"])]
                for row in rows
            ],
        },
        {
            "title": "Costs",
            "note": "Positions that the first token of an answer attends to, and the bytes of their keys and values, "
            "which every decoded token reads. Ingest: seconds for one history, of a machine that may do other work.",
            "columns": ["cell", "arm", "positions", "bytes a step", "ingest s", "disk bytes a token"],
            "rows": [
                [row["history"], row["arm"], f"{row['cost_positions_mean']:.0f}", f"{row['bytes_per_step']:,.0f}",
                 f"{row['ingest_s']:.2f}", f"{row['disk_bytes_per_token']:.1f}"]
                for row in rows
            ],
        },
        _crossed("By seed", "The scores of each seed.", results["seeds"], lambda row: f"seed {row['seed']}"),
        _crossed(
            "By depth",
            "Depth of the oldest evidence in fifths of the history; worst: the worst fifth over the mean of all.",
            results["depth"],
            lambda row: f"{row['depth_low']:.1f}-{row['depth_high']:.1f}",
            worst=worst,
        ),
    ]  # fmt: skip
    if results["kinds"]:
        tables.append(_crossed("By kind", "", results["kinds"], lambda row: row["kind"]))
    if results["retention"]:
        tables.append(
            {
                "title": "Retention",
                "note": "Score over the score at the first size of the same family.",
                "columns": ["cell", "arm", "over", "retention"],
                "rows": [
                    [row["history"], row["arm"], row["first"], share(row["retention"])]
                    for row in results["retention"]
                ],
            }
        )
    return tables


def _crossed(
    title: str,
    note: str,
    rows: list[dict[str, Any]],
    head: Callable[[dict[str, Any]], str],
    worst: dict[tuple[str, str], str] | None = None,
) -> dict[str, Any]:
    """A line for each cell and arm, a column for each heading; what was not asked there is a dash."""
    headings = list(dict.fromkeys(head(row) for row in rows))
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["history"], row["arm"]), {})[head(row)] = row
    return {
        "title": title,
        "note": f"{note} n: questions in the smallest column that has any.".strip(),
        "columns": ["cell", "arm", "n", *headings, *(["worst"] if worst else [])],
        "rows": [
            [
                *place,
                str(min(row["n"] for row in line.values() if row["n"])),
                *(share(line[name]["accuracy"]) if name in line else "–" for name in headings),
                *([worst[place]] if worst else []),
            ]
            for place, line in lines.items()
        ],
    }


def share(value: float | None) -> str:
    """0.5 as `.500`; a dash for nothing."""
    return "–" if value is None else f"{value:.3f}".removeprefix("0")
