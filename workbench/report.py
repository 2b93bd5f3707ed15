"""The report of a run: one sheet, whose figures, tables and sentences come from the same store and plots as the pages.

Two reports of one run are equal byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import holoviews as hv
import polars as pl
from markupsafe import Markup

from workbench import plots
from workbench.conclusions import group_subtitle, headline, key_figures, results_table
from workbench.palette import SERIES
from workbench.plots.curves import panel_series
from workbench.sheet import sheet, write_whole
from workbench.state import PREFERRED_ARMS
from workbench.stores.run import RunStore, group_of
from workbench.text import (
    arm_legend,
    arm_name,
    count,
    duration,
    level_legend,
    percent,
    plain,
    series_legend,
    size,
    table,
    verdict,
)

MAX_EXAMPLES = 4
"""Traced questions that a report shows: enough to see the idea, few enough to stay small."""

FILE_NAME = "report.html"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One traced question of one arm."""

    history: str
    question: int
    arm: str


def write_report(run_folder: str | Path) -> Path:
    """Write report.html into a run folder, whole or not at all; its path. Raises ConfigError for no run."""
    store = RunStore(run_folder)
    return write_whole(store.path / FILE_NAME, render(store))


def render(store: RunStore) -> str:
    """The report as HTML."""
    figures: dict[str, hv.Element] = {}
    page = {
        "title": f"{store.name} · MegaContext",
        "store": store,
        "headline": headline(store),
        "particulars": particulars(store),
        "figures": key_figures(store),
        "groups": [_group(store, group, figures) for group in store.groups()],
        "tables": [_shown(table) for table in store.tables],
        "examples": [_example(store, example, figures) for example in examples(store)],
        "curves": list(_curves(store, figures)),
        "ingest": ingest_table(store),
        "environment": environment(store),
        "recipe": plain(store.recipe_text, 50_000),
    }
    return sheet("report.html.j2", page, figures)


def examples(store: RunStore) -> list[Example]:
    """Traced questions to show: of each group a plain and a superseded one, LensNet's where it was traced."""
    found: list[Example] = []
    seen: set[tuple[str, str]] = set()
    for history in store.histories():
        for row in store.questions(history).filter(pl.col("traced")).to_dicts():
            arms = store.traced_arms(history, row["question"])
            kind = (group_of(history), row["kind"] or "")
            if arms and kind not in seen:
                seen.add(kind)
                arm = next((arm for arm in PREFERRED_ARMS if arm in arms), arms[0])
                found.append(Example(history=history, question=row["question"], arm=arm))
    return found[:MAX_EXAMPLES]


def particulars(store: RunStore) -> list[tuple[str, Markup | str]]:
    """What a reader asks first about a run."""
    info = store.info
    book = info.raw.get("book") if isinstance(info.raw.get("book"), dict) else {}
    took = (info.finished - info.started).total_seconds() if info.started and info.finished else None
    return [
        ("run", plain(store.name, 120)),
        ("state", store.state),
        ("text", plain(f"{book.get('title') or '–'} ({book.get('licence') or 'licence not stated'})", 200)),
        ("started", "–" if info.started is None else f"{info.started:%d %B %Y, %H:%M} UTC"),
        ("took", duration(took)),
        ("device", plain(info.raw.get("device", "–"), 80)),
        ("seed", plain(info.raw.get("seed", "–"), 40)),
    ]


def environment(store: RunStore) -> list[tuple[str, Markup | str]]:
    """Fingerprints and versions: what to compare when two runs differ."""
    raw = store.info.raw
    versions = raw.get("versions") if isinstance(raw.get("versions"), dict) else {}
    return [
        ("recipe", plain(raw.get("recipe_fingerprint", "–"), 80)),
        ("model", plain(raw.get("model_fingerprint", "–"), 80)),
        *((plain(name, 40), plain(version, 80)) for name, version in sorted(versions.items())),
    ]


def ingest_table(store: RunStore) -> Markup | None:
    """What it cost to store each history; None if nothing was stored."""
    rows = store.ingest_summary().to_dicts()
    if not rows:
        return None
    lines = [
        (plain(row["history"], 60), count(row["tokens"]), duration(row["wall_s"]), count(row["tokens_per_s"]),
         size(row["store_bytes"]), "–" if row["bytes_per_token"] is None else f"{row['bytes_per_token']:.1f}",
         "–" if not row["flops"] else f"{row['flops'] / 1e9:,.1f}")
        for row in rows
    ]  # fmt: skip
    return table(("history", "tokens", "wall time", "tokens/s", "on disk", "bytes a token", "GFLOP"), lines)


def kinds_table(rows: pl.DataFrame) -> Markup:
    """Plain and superseded facts side by side, for each arm."""
    lines, marked = [], []
    for at, row in enumerate(rows.to_dicts()):
        if row["arm"] == "lensnet":
            marked.append(at)
        lines.append((
            arm_name(row["arm"]), percent(row["plain_accuracy"]), count(row["plain_n"]),
            percent(row["superseded_accuracy"]), count(row["superseded_n"]),
        ))  # fmt: skip
    return table(("arm", "plain facts", "n", "superseded facts", "n"), lines, marked)


def _group(store: RunStore, group: str, figures: dict[str, hv.Element]) -> dict[str, Any]:
    rows = store.rows(group)
    figures[f"bars {group}"] = plots.accuracy_bars(rows)
    figures[f"depth {group}"] = plots.accuracy_by_depth(store.depth(group))
    return {
        "name": group,
        "subtitle": group_subtitle(store, group),
        "bars": f"bars {group}",
        "depth": f"depth {group}",
        "legend": arm_legend(rows["arm"].to_list()),
        "table": results_table(rows),
        # Only facts are plain or superseded; of other tasks there is nothing to set side by side.
        "kinds": kinds_table(rows) if rows["plain_n"].sum() or rows["superseded_n"].sum() else None,
    }


def _shown(shown: dict[str, Any]) -> dict[str, Any]:
    """A table that the run wrote; its first two columns are names."""
    head = [plain(name, 60) for name in shown["columns"]]
    rows = [[plain(cell, 80) for cell in row] for row in shown["rows"]]
    marked = [at for at, row in enumerate(shown["rows"]) if "lensnet" in row[:2]]
    return {"title": shown["title"], "note": shown["note"], "table": table(head, rows, marked, first=2)}


def _example(store: RunStore, example: Example, figures: dict[str, hv.Element]) -> dict[str, Any]:
    entries = store.entries(example.history, example.arm, example.question)
    first, last = int(entries["step"].min()), int(entries["step"].max())
    needed = store.needed_tokens(example.history, example.question)
    names = [f"context {example.history} {example.question} {step}" for step in (first, last)]
    for name, step in zip(names, (first, last), strict=True):
        figures[name] = plots.context_lens(entries.filter(pl.col("step") == step), needed)
    question = store.questions(example.history).filter(pl.col("question") == example.question).to_dicts()[0]
    answers = store.answers(example.history, example.question).to_dicts()
    own = next((row for row in answers if row["arm"] == example.arm), None)
    return {
        "history": example.history,
        "arm": arm_name(example.arm),
        "kind": question["kind"] or "not answered yet",
        "versions": question["versions"] or 1,
        "prompt": plain(question["prompt"] or f"question {example.question}"),
        "expected": plain(question["expected"]),
        "answered": "–" if own is None else plain(own["answered"]),
        "verdict": "" if own is None else verdict(own["correct"]),
        "steps": last,
        "legend": level_legend(entries["lod"].unique().to_list(), store.block_size or 0),
        "before": names[0],
        "after": names[1],
        "others": table(
            ("arm", "answered", ""),
            [(arm_name(row["arm"]), plain(row["answered"], 80), verdict(row["correct"])) for row in answers],
            [at for at, row in enumerate(answers) if row["arm"] == example.arm], first=3,
        ),
    }  # fmt: skip


def _curves(store: RunStore, figures: dict[str, hv.Element]) -> Iterable[dict[str, Any]]:
    for panel in (*plots.TRAIN_PANELS, *plots.INGEST_PANELS):
        names = list(panel_series(store.frame(panel.kind), panel))
        if names:
            figures[panel.title] = plots.curves(store.frame(panel.kind), panel, show_legend=False)
            yield {"title": panel.title, "plot": panel.title, "legend": series_legend(names, SERIES)}
