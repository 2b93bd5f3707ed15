"""What was asked and what was answered, in words: what views of a question have in common."""

from __future__ import annotations

import polars as pl
from markupsafe import Markup

from workbench.stores.run import RunStore
from workbench.text import arm_name, count, percent, plain, table, verdict
from workbench.views.parts import empty, pairs


def question_line(store: RunStore, history: str, question: int) -> Markup:
    """What was asked, where the fact stands and what was expected."""
    rows = store.questions(history).filter(pl.col("question") == question).to_dicts() if history else []
    if not rows:
        return empty("No question yet", "Questions appear as soon as the run asks them.")
    row = rows[0]
    kind = row["kind"] or "–"
    if row["versions"] and row["versions"] > 1:
        kind += f", {row['versions']} values, the last counts"
    prompt = Markup('<span class="quote">{}</span>').format(
        plain((row["prompt"] or f"question {question}").strip())
    )
    depth = "–" if row["depth"] is None else f"{percent(row['depth'], 0)} of the way from oldest to newest"
    return pairs([
        ("asked", prompt), ("expected", Markup("<b>{}</b>").format(plain(row["expected"]))),
        ("kind", kind), ("place", depth),
        ("blocks", ", ".join(map(str, (row["needed_blocks"] or [])[:12])) or "–"),
    ])  # fmt: skip


def answers_table(store: RunStore, history: str, question: int, arm: str) -> Markup:
    """Every arm's answer to one question; the chosen arm stands out."""
    rows = store.answers(history, question).to_dicts() if history else []
    if not rows:
        return empty("No answers yet", "They appear as soon as the run comes to them.")
    lines = [
        (arm_name(row["arm"]), plain(row["answered"], 80), verdict(row["correct"]),
         {True: "yes", False: "no", None: "–"}[row["hit"]], count(row["cost_positions"]),
         f"{row['latency_ms'] or 0:.0f} ms")
        for row in rows
    ]  # fmt: skip
    marked = [at for at, row in enumerate(rows) if row["arm"] == arm]
    return table(("arm", "answered", "", "block read", "positions", "took"), lines, marked, first=3)


def final_raw_blocks(entries: pl.DataFrame) -> list[int]:
    """Blocks that stand as tokens in the last step of `entries`."""
    if entries.is_empty():
        return []
    return entries.filter((pl.col("step") == entries["step"].max()) & (pl.col("lod") == 0))["index"].to_list()


def not_traced(store: RunStore) -> Markup:
    """What to say of a question whose refocus steps were not recorded."""
    return empty(
        "No refocus steps were recorded for this question",
        "Choose one marked “traced” in the list of questions." if len(store.frame("entry"))
        else "They appear here as soon as the run traces a question." if store.live
        else "This run traced no question.",
    )  # fmt: skip
