"""One refocus step in words and tables: how it stood, what it did and why, what entered and what left."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from markupsafe import Markup

from megacontext.errors import MegaContextError
from workbench.palette import level_colour
from workbench.stores.seen import span_text
from workbench.stores.steps import Change
from workbench.text import count, plain, table
from workbench.views.parts import empty
from workbench.views.texts import Texts

MOST_ROWS = 10
"""Rows of a table that is read at a glance; how many more there are is said."""
SAID_TOKENS, SAID_CHARACTERS = 48, 240
"""How much of a passage is told beside what happened to it."""
_EDITS = {"expand": "▲ expanded", "collapse": "▼ collapsed", "": "left as it is"}
_CHANGES = {
    "visible": "▲ its tokens became visible",
    "finer": "▲ opened into gists",
    "folded": "▼ its tokens were folded",
    "coarser": "▼ folded with its siblings",
}


def step_line(entries: pl.DataFrame, step: int, last: int) -> Markup:
    """How a step stood and what it did, in a line."""
    edits = entries.filter(pl.col("edit") != "")
    parts = [f"{len(entries)} entries, {count(entries['cost_positions'].sum())} positions"]
    parts += [f"{kind}s {part.height}" for (kind,), part in edits.group_by("edit", maintain_order=True)]
    if edits.is_empty():
        parts.append("no edits: the final context" if step == last else "no edits")
    return Markup('<p class="muted">Step {} of {}: {}</p>').format(step, last, "; ".join(parts))


def level_chip(lod: int) -> Markup:
    """A level with its colour before it."""
    return Markup('<i class="chip" style="background:{}"></i>L{}').format(level_colour(lod), lod)


def decisions_table(decided: pl.DataFrame) -> Markup:
    """Edited entries and those that were refused, with the reason."""
    if decided.is_empty():
        return empty("Nothing was done, and nothing asked for detail in vain", "Choose an earlier step.")
    lines = [
        (level_chip(row["lod"]), f"{row['start']:,}–{row['stop']:,}", _signed(row["score"]), _EDITS[row["edit"]],
         Markup('<span class="why">{}</span>').format(row["words"] or "–"))
        for row in decided.head(MOST_ROWS).to_dicts()
    ]  # fmt: skip
    return table(("level", "tokens", "score", "", "why"), lines, first=9) + _more(len(decided) - MOST_ROWS)


def reasons_line(counts: pl.DataFrame) -> Markup:
    """How many entries there are of each reason."""
    if counts.is_empty():
        return Markup('<p class="muted">This run was recorded before reasons were.</p>')
    items = Markup("").join(
        Markup("<li><b>{}</b> {}</li>").format(row["entries"], row["words"]) for row in counts.to_dicts()
    )
    return Markup('<ul class="reasons">{}</ul>').format(items)


def changes_table(changed: Sequence[Change], texts: Texts | str, final: bool) -> Markup:
    """What entered and what left, with its text; `texts` may be the sentence that says why there is none."""
    if not changed:
        said = "This is the final context." if final else "Its edits came to nothing."
        return empty("Nothing entered and nothing left", said)
    why = "" if isinstance(texts, Texts) else texts
    lines = [
        Markup(
            '<div class="change {}"><p class="muted">{} · {} · tokens {:,}–{:,}</p><p class="quote">{}</p></div>'
        ).format(
            change.kind, _CHANGES[change.kind], level_chip(change.gist_lod), change.start, change.stop,
            _words(change, texts) if isinstance(texts, Texts) else "",
        )
        for change in changed[:MOST_ROWS]
    ]  # fmt: skip
    note = Markup('<p class="muted">{}</p>').format(plain(why)) if why else Markup("")
    return note + Markup("").join(lines) + _more(len(changed) - MOST_ROWS)


def steps_table(steps: pl.DataFrame) -> Markup:
    """The refocus steps of one question."""
    lines = [
        (row["step"], count(row["entries"]), f"{count(row['cost_positions'])} of {count(row['budget_positions'])}",
         row["expanded"], row["collapsed"], row["refused"], f"{row['score_max'] or 0:+.2f}",
         f"{row['latency_ms'] or 0:.1f} ms")
        for row in steps.to_dicts()
    ]  # fmt: skip
    return table(
        ("step", "entries", "positions", "expanded", "collapsed", "refused", "top score", "took"), lines
    )


def _words(change: Change, texts: Texts) -> Markup:
    try:
        said = span_text(texts.memory, texts.vocabulary, change.start, change.stop, SAID_TOKENS)
    except MegaContextError as problem:
        said = str(problem)
    more = "" if change.stop - change.start <= SAID_TOKENS else " …"
    return plain(said, SAID_CHARACTERS) + more


def _signed(score: float | None) -> str:
    return "–" if score is None else f"{score:+.2f}"


def _more(rows: int) -> Markup:
    return Markup('<p class="muted">and {} more</p>').format(rows) if rows > 0 else Markup("")
