"""What the model saw at one recorded step: each entry's text, where it comes from, and what the budget went to.

Of a raw entry the model read every word; of a gist it read one vector, so what is told is the passage that the gist
stands for, and that the model did not read it. Texts come out of the memory through the vocabulary alone: no weights
are needed. Deliberately ignorant of pages: values and plain text, nothing escaped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from megacontext.errors import ConfigError
from megacontext.runtime.explain import as_text, entry_texts
from megacontext.tree import Memory
from workbench.stores.steps import context_of
from workbench.stores.vocabulary import Vocabulary

GIST_TOKENS = 24
"""How much of the passage that a gist stands for its line shows."""
PASSAGE_TOKENS = 4_096
"""How much of a passage is decoded at most: that of a gist of the second level is there whole at K = 32."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One entry."""

    slot: int
    lod: int
    index: int
    start: int
    stop: int
    cost_positions: int
    score: float | None
    text: str
    """Of a raw entry all that was read; of a gist the beginning of what it stands for."""
    sources: tuple[str, ...]
    """Documents and places in them; empty where the memory knows none."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What a gist stands for."""

    lod: int
    index: int
    start: int
    stop: int
    text: str
    """Of a gist of the first level; empty above it, where the children are told instead."""
    children: tuple[Shown, ...]


def shown(entries: pl.DataFrame, memory: Memory, vocabulary: Vocabulary) -> list[Shown]:
    """Every entry of one step with its text, in time order.

    Raises ConfigError where the memory no longer holds what the step saw, and what reading it raises.
    """
    rows = entries.sort("slot")
    context = context_of(rows, memory.block_size)
    if context.num_tokens > memory.num_tokens:
        raise ConfigError(
            f"the text of a step is read from the memory of its history, {context.num_tokens:,} tokens then; "
            f"{memory.history.label} has {memory.num_tokens:,} now; choose the run's own memory"
        )
    texts = entry_texts(context, memory, vocabulary, folded_tokens=GIST_TOKENS)
    return [
        Shown(
            slot=slot, lod=row["lod"], index=row["index"], start=row["start"], stop=row["stop"],
            cost_positions=row["cost_positions"], score=row["score"], text=texts[slot],
            sources=_sources(memory, row["start"], row["stop"]),
        )
        for slot, row in enumerate(rows.to_dicts())
    ]  # fmt: skip


def exact_text(entries: list[Shown]) -> str:
    """The context as the model saw it: raw text word for word, a gist as a mark with the beginning of its passage."""
    return as_text(entries)


def passage(lod: int, index: int, memory: Memory, vocabulary: Vocabulary) -> Passage:
    """What a gist stands for: a text, or from the second level on its children, each with the beginning of its own.

    Raises NodeMissingError for a node that the memory has not.
    """
    size = memory.block_size
    width = size**lod
    start, stop = index * width, (index + 1) * width
    if lod == 1:
        text = vocabulary.decode(memory.tokens(start, stop))
        return Passage(lod=lod, index=index, start=start, stop=stop, text=text, children=())
    below = width // size
    children = []
    for child in range(index * size, (index + 1) * size):
        first, last = child * below, (child + 1) * below
        children.append(
            Shown(
                slot=-1, lod=lod - 1, index=child, start=first, stop=last, cost_positions=0, score=None,
                text=vocabulary.decode(memory.tokens(first, min(last, first + GIST_TOKENS))),
                sources=_sources(memory, first, last),
            )
        )  # fmt: skip
    return Passage(lod=lod, index=index, start=start, stop=stop, text="", children=tuple(children))


def span_text(
    memory: Memory, vocabulary: Vocabulary, start: int, stop: int, most: int = PASSAGE_TOKENS
) -> str:
    """The text of tokens [start, stop), its first `most` tokens."""
    return vocabulary.decode(memory.tokens(start, min(stop, start + most, memory.num_tokens)))


@dataclass(frozen=True)
class Share:
    """What a part of the budget went to."""

    kind: str
    """`question`, `raw`, `gist` or `free`."""
    lod: int
    """Of a gist; -1 for the rest."""
    positions: int


def budget_shares(
    entries: pl.DataFrame, budget_positions: int, question_positions: int | None
) -> list[Share]:
    """The budget of one step by what it went to, in the order of the bar; `question_positions` None: not known.

    Where the question's part is not known, it is part of what is free.
    """
    by_level = entries.group_by("lod").agg(pl.col("cost_positions").sum()).sort("lod")
    costs = dict(zip(by_level["lod"].to_list(), by_level["cost_positions"].to_list(), strict=True))
    shares = [] if question_positions is None else [Share("question", -1, question_positions)]
    shares += [Share("gist" if lod else "raw", lod or -1, int(cost)) for lod, cost in costs.items()]
    free = budget_positions - sum(share.positions for share in shares)
    return [*shares, Share("free", -1, max(0, free))]


def raw_runs(entries: list[Shown]) -> list[list[Shown]]:
    """Entries in time order, raw ones that follow one another together and every gist by itself."""
    if not entries:
        return []
    raw = np.array([entry.lod == 0 for entry in entries])
    begins = np.flatnonzero(~(raw & np.r_[False, raw[:-1]]))
    ends = [*begins[1:].tolist(), len(entries)]
    return [entries[begin:end] for begin, end in zip(begins.tolist(), ends, strict=True)]


def _sources(memory: Memory, start: int, stop: int) -> tuple[str, ...]:
    return tuple(map(str, memory.cite(start, stop)))
