"""One refocus step, told from its recorded entries: what it did, why it left the rest, what entered and what left.

An entry row is the state before the step's edits, with the edit on the first slot of what it changes. So the change
that a step makes follows from its own rows: an expanded gist gives way to what is below it, a collapsed group to its
parent. Deliberately ignorant of texts, scorers and models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from megacontext.focus import Reason, WorkingContext

REFUSED_DETAIL = (Reason.EXCLUDED, Reason.RESTING, Reason.EDIT_LIMIT, Reason.BUDGET, Reason.PASSED_OVER)
"""Reasons for which an entry that asked for detail did not get it."""


class Change(NamedTuple):
    """What one edit makes of a span of tokens."""

    kind: str
    """`visible`: gist to tokens; `finer`: gist to gists; `folded`: tokens to a gist; `coarser`: gists to a gist."""
    start: int
    stop: int
    lod: int
    """Level that the span has afterwards."""
    index: int
    """Of the gist that was opened, or that the span is folded into."""
    gist_lod: int
    """Its level."""
    score: float | None
    """Of the entry that was edited; of a folded group of its first member."""


def context_of(entries: pl.DataFrame, block_size: int) -> WorkingContext:
    """The working context of one step. Raises IllegalEditError for rows that are none."""
    rows = entries.sort("slot")
    return WorkingContext(
        rows["lod"].to_numpy(), rows["index"].to_numpy(), int(rows["stop"].max() or 0), block_size
    )


def changes(entries: pl.DataFrame, block_size: int) -> list[Change]:
    """What the edits of one step make of the context, in time order."""
    found = []
    for row in entries.filter(pl.col("edit").is_in(["expand", "collapse"])).sort("slot").to_dicts():
        lod, index, start, stop = row["lod"], row["index"], row["start"], row["stop"]
        if row["edit"] == "expand":
            kind = "visible" if lod == 1 else "finer"
            found.append(Change(kind, start, stop, lod - 1, index, lod, row["score"]))
        elif lod == 0:
            found.append(Change("folded", start, stop, 1, index, 1, row["score"]))
        else:
            parent, width = index // block_size, block_size ** (lod + 1)
            found.append(
                Change(
                    "coarser", parent * width, (parent + 1) * width, lod + 1, parent, lod + 1, row["score"]
                )
            )
    return found


def reason_counts(entries: pl.DataFrame) -> pl.DataFrame:
    """Entries of one step by reason, columns reason, words and entries, most first; empty for a run that has none."""
    counts = (
        entries.filter(pl.col("reason").is_in([reason.name for reason in Reason]))
        .group_by("reason")
        .agg(entries=pl.len().cast(pl.Int64))
        .sort("entries", "reason", descending=[True, False])
    )
    return counts.with_columns(words=_words(counts["reason"]))


def decisions(entries: pl.DataFrame) -> pl.DataFrame:
    """Entries of one step that were edited, then those that asked for detail in vain, by the strength of their scores.

    Columns of the entry, and `words`: what became of it (null for a run that recorded no reasons). Of a folded group
    only the first member is told.
    """
    rows = entries.with_columns(pl.col("edit").fill_null(""))
    done = rows.filter(pl.col("edit") != "")
    in_vain = rows.filter(
        (pl.col("edit") == "")
        & pl.col("reason").is_in([reason.name for reason in REFUSED_DETAIL])
        & (pl.col("score") > 0)
    )
    strongest = {"by": pl.col("score").abs(), "descending": True, "nulls_last": True}
    both = pl.concat([done.sort(**strongest), in_vain.sort(**strongest)])
    return both.with_columns(words=_words(both["reason"]))


def _words(reasons: pl.Series) -> pl.Series:
    """What each name of a Reason says, null where it is none."""
    known = {reason.name: reason.words for reason in Reason}
    return pl.Series([known.get(name) for name in reasons], dtype=pl.String)


def needed_standing(entries: pl.DataFrame, needed: list[int]) -> pl.DataFrame:
    """At each step the entry that covers each needed token: row, token, lod, and the middle of its `position`s.

    `entries` are those of all steps of one question; `row` counts the steps that there are, from 0.
    """
    rows = entries.sort("step", "slot").with_columns(
        ends=pl.col("cost_positions").cum_sum().over("step"),
        row=pl.col("step").rank("dense").cast(pl.Int64) - 1,
    )
    tokens = pl.DataFrame({"token": needed}, schema={"token": pl.Int64()})
    return (
        rows.join(tokens, how="cross")
        .filter((pl.col("start") <= pl.col("token")) & (pl.col("token") < pl.col("stop")))
        .select("row", "token", "lod", position=pl.col("ends") - pl.col("cost_positions") / 2)
    )


def question_positions(steps: pl.DataFrame, answers: pl.DataFrame) -> int | None:
    """Positions that the question took beside the context, None where no answer was recorded.

    `steps` are the `focus` rows of one question and arm in order, `answers` its `answer` row.
    """
    costs, answered = steps["cost_positions"], answers["cost_positions"].drop_nulls()
    return int(answered[0] - costs[-1]) if len(costs) and len(answered) else None


def room_positions(steps: pl.DataFrame, answers: pl.DataFrame) -> int:
    """What a context might cost in a question's refocus: the budget without what the question took.

    Where no answer was recorded, as of a session that goes on, what the largest context of the refocus cost. Arguments
    as of `question_positions`.
    """
    question, budget = question_positions(steps, answers), steps["budget_positions"].max()
    if question is None or budget is None:
        return int(steps["cost_positions"].max() or 0)
    return int(budget) - question


class Raster(NamedTuple):
    """The levels of all steps on one axis, S steps by C columns."""

    levels: np.ndarray
    """int16 (S, C): the finest level that stands in each column; -1 where nothing does."""
    steps: list[int]
    end: float
    """Where the axis ends, in its units."""


def level_raster(entries: pl.DataFrame, axis: str, columns: int = 900) -> Raster:
    """Every step as a row of `columns` equal columns over tokens, or over positions of the budget.

    However many steps and entries there are, what is drawn has this size; a raw block of a long history, thinner than a
    column, is not lost, for the finest level in a column is what it shows.
    """
    rows = entries.sort("step", "slot").with_columns(ends=pl.col("cost_positions").cum_sum().over("step"))
    steps = rows["step"].unique().sort().to_list()
    if axis == "tokens":
        begin, stop = rows["start"].to_numpy().astype(float), rows["stop"].to_numpy().astype(float)
    else:
        stop = rows["ends"].to_numpy().astype(float)
        begin = stop - rows["cost_positions"].to_numpy()
    end = float(stop.max(initial=1.0))
    lod = rows["lod"].to_numpy().astype(np.int16)
    row_of = np.searchsorted(np.asarray(steps), rows["step"].to_numpy())
    first = np.minimum((begin / end * columns).astype(np.int64), columns - 1)
    last = np.maximum(np.minimum(np.ceil(stop / end * columns).astype(np.int64), columns), first + 1)
    levels = np.full((len(steps), columns), -1, dtype=np.int16)
    # Coarse first, so that what is finer lies above it.
    for at in np.argsort(-lod, kind="stable").tolist():
        levels[row_of[at], first[at] : last[at]] = lod[at]
    return Raster(levels, steps, end)
