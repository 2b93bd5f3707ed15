"""What a run found, in words and key figures: the sentences that pages and reports open with.

Deliberately ignorant of pages and of plots; what is told comes from the store as it is.
"""

from __future__ import annotations

import polars as pl
from markupsafe import Markup

from workbench.stores.run import RunStore
from workbench.text import arm_name, count, duration, percent, plain, size, table


def headline(store: RunStore) -> Markup:
    """What the run concluded; before that, how far it has come."""
    if store.sentences:
        first, *rest = store.sentences
        more = Markup("").join(Markup('<p class="muted">{}</p>').format(plain(sentence)) for sentence in rest)
        return Markup('<p class="lead">{}</p>{}').format(plain(first), more)
    answered = len(store.frame("answer"))
    if store.live and not trained(store):
        return Markup(
            '<p class="lead">In progress: {} answers so far. Intervals come at the end.</p>'
        ).format(count(answered))
    said = trained(store) or f"This run has {count(answered)} answers and no conclusions."
    return Markup('<p class="lead">{}</p>').format(plain(said))


def trained(store: RunStore) -> str:
    """What a run that only trained has come to, in a sentence; empty for any other."""
    rows = store.frame("train")
    if rows.is_empty() or len(store.frame("answer")):
        return ""
    stages = rows["stage"].unique(maintain_order=True).to_list()
    named = f"stage {stages[0]}" if len(stages) == 1 else f"{len(stages)} stages ({', '.join(stages)})"
    losses = rows["loss_nats"].drop_nulls().drop_nans()
    went = f"; the loss went from {losses[0]:.3f} to {losses[-1]:.3f} nats" if len(losses) else ""
    return f"Trained to step {count(rows['step'][-1])} in {named}{went}."


def key_figures(store: RunStore) -> list[tuple[str, str, str]]:
    """The few numbers to see first: what, how much, remark."""
    items: list[tuple[str, str, str]] = []
    rows = store.rows()
    for group in store.groups():
        here = {row["arm"]: row for row in rows.filter(pl.col("history") == group).to_dicts()}
        if lens := here.get("lensnet"):
            ratio = "" if lens["of_oracle"] is None else f"{percent(lens['of_oracle'])} of the oracle, "
            items.append((f"LensNet, {group}", percent(lens["accuracy"]), f"{ratio}n = {lens['n']}"))
    if store.info.budget_positions:
        longest = max((store.num_tokens(name) for name in store.histories()), default=0)
        share = (
            f"{percent(store.info.budget_positions / longest, 2)} of the longest history" if longest else ""
        )
        items.append(("Budget", count(store.info.budget_positions), f"positions, {share}".rstrip(", ")))
    ingest = store.ingest_summary()
    if len(ingest):
        speed = ingest["tokens"].sum() / max(ingest["wall_s"].sum() or 0, 1e-9)
        items.append(("Ingested", count(ingest["tokens"].sum()), f"tokens at {count(speed)} tokens/s"))
        items.append(("Stored", size(ingest["store_bytes"].sum()), "on disk, all histories"))
    if store.info.started and store.info.finished:
        items.append(
            ("Took", duration((store.info.finished - store.info.started).total_seconds()), store.info.kind)
        )
    return items


def group_subtitle(store: RunStore, group: str) -> str:
    """Length of the histories, budget and number of questions, in words."""
    rows = store.rows(group)
    tokens, questions = rows["history_tokens"].max(), rows["n"].max()
    budget = f", budget {store.info.budget_positions:,} positions" if store.info.budget_positions else ""
    smoke = "" if (questions or 0) >= 200 else " (a smoke test: a claim needs 200)"
    asked = f"{count(questions)} questions{smoke}"
    return f"{count(tokens)} tokens of history{budget}, {asked}; whiskers are 95 % intervals"


def results_table(rows: pl.DataFrame) -> Markup:
    """The arms of one group as a table; LensNet stands out."""
    head = (
        "arm", "right", "accuracy", "95 % interval", "of oracle", "plain", "superseded", "needed block read",
        "positions", "bytes a step",
    )  # fmt: skip
    lines, marked = [], []
    for at, row in enumerate(rows.to_dicts()):
        if row["arm"] == "lensnet":
            marked.append(at)
        interval = "–" if row["low"] is None else f"{percent(row['low'])} – {percent(row['high'])}"
        lines.append((
            arm_name(row["arm"]), f"{count(row['correct'])} of {count(row['n'])}", percent(row["accuracy"]), interval,
            percent(row["of_oracle"]), _kind(row, "plain"), _kind(row, "superseded"), percent(row["hit_rate"]),
            count(row["cost_positions_mean"]), size(row["bytes_per_step"]),
        ))  # fmt: skip
    return table(head, lines, marked)


def _kind(row: dict[str, object], kind: str) -> str:
    return "–" if not row[f"{kind}_n"] else f"{percent(row[f'{kind}_accuracy'])} of {count(row[f'{kind}_n'])}"
