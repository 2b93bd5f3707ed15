"""Why each entry of a working context has its level, and the exact text that the model saw.

For every entry: the tokens it covers, its score at the last look and its rank by it, what was done to its node and
to those above it, what the allocator says of it, and what it costs. The text of a raw entry is what the model read
word for word; of a gist it read one vector, so what is shown is the passage that the gist stands for, marked as
folded.

Deliberately ignorant of how it is drawn: values, and plain text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from megacontext.focus import FocusStep, Reason, WorkingContext
from megacontext.spans import Node
from megacontext.tree import Memory

_FOLDED_TOKENS = 12
"""How much of a folded passage is shown."""
_PAST = {"expand": "expanded", "collapse": "collapsed", "fold": "folded to make room"}
_Utf8 = partial(codecs.getincrementaldecoder("utf-8"), "replace")
"""Bytes to text, piece by piece; what is no UTF-8 becomes U+FFFD."""


@dataclass(frozen=True, kw_only=True)
class EntryExplanation:
    """One entry."""

    start: int
    stop: int
    lod: int
    index: int
    cost_positions: int
    score: float | None
    """None where it was not scored: the whole history fitted, or it came later."""
    rank: int | None
    """1 for the highest score of the context."""
    why: str
    history: tuple[str, ...]
    """What was done to its node and those above it, oldest first, as far as it is remembered."""
    text: str
    """What the model read; of a gist the beginning of what it stands for. A character that is cut between two raw
    entries is part of the later one."""
    cited: tuple[str, ...] = ()
    """The documents it comes from."""


class Vocabulary(Protocol):
    """Ids to text; a tokenizer of whoever's model."""

    def decode(self, ids: Iterable[int]) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...


class WithText(Protocol):
    """An entry whose text is known."""

    @property
    def lod(self) -> int: ...

    @property
    def start(self) -> int: ...

    @property
    def stop(self) -> int: ...

    @property
    def text(self) -> str: ...


class _Look(NamedTuple):
    """What the last focus step said of an entry."""

    score: float
    rank: int
    why: str


def _looks(step: FocusStep) -> dict[tuple[int, int], _Look]:
    """By level and index."""
    ranks = np.empty(len(step.scores), dtype=np.int64)
    ranks[np.argsort(-step.scores, kind="stable")] = np.arange(1, len(step.scores) + 1)
    rows = zip(
        step.context.lod.tolist(),
        step.context.index.tolist(),
        step.scores.tolist(),
        ranks.tolist(),
        step.reasons.tolist(),
        strict=True,
    )
    return {(lod, index): _Look(score, rank, Reason(code).words) for lod, index, score, rank, code in rows}


def explain(
    context: WorkingContext,
    step: FocusStep | None,
    edits: dict[Node, list[tuple[int, str]]],
    memory: Memory,
    tokenizer: Vocabulary,
) -> list[EntryExplanation]:
    """Every entry of `context`, in time order. `step` is the last look at it, `edits` what came before."""
    looks = {} if step is None else _looks(step)
    if step is not None:
        unseen = "it came after the last refocus"
    elif context.lod.any():
        unseen = "what the last refocus said of it is not remembered"
    else:
        unseen = "the whole history fits the budget"
    texts = entry_texts(context, memory, tokenizer)
    nodes = list(zip(context.lod.tolist(), context.index.tolist(), strict=True))
    return [
        EntryExplanation(
            start=int(context.start[slot]),
            stop=int(context.stop[slot]),
            lod=int(context.lod[slot]),
            index=int(context.index[slot]),
            cost_positions=int(context.costs[slot]),
            score=looks[node].score if node in looks else None,
            rank=looks[node].rank if node in looks else None,
            why=looks[node].why if node in looks else unseen,
            history=_history(context, slot, edits),
            text=texts[slot],
            cited=tuple(map(str, memory.cite(int(context.start[slot]), int(context.stop[slot])))),
        )
        for slot, node in enumerate(nodes)
    ]


def entry_texts(
    context: WorkingContext, memory: Memory, tokenizer: Vocabulary, *, folded_tokens: int = _FOLDED_TOKENS
) -> list[str]:
    """The tokens of each raw entry as text; of a gist the beginning of its passage, so many tokens.

    Raw entries in a row are one text: put together they are what its tokens say, also where a character was cut.
    """
    texts, reader = [], _Utf8()
    for slot, lod in enumerate(context.lod.tolist()):
        start, stop = int(context.start[slot]), int(context.stop[slot])
        if lod:
            texts.append(tokenizer.decode(memory.tokens(start, min(stop, start + folded_tokens))))
            continue
        ends = slot + 1 == len(context) or bool(context.lod[slot + 1])
        read = b"".join(map(tokenizer.token_bytes, memory.tokens(start, stop).tolist()))
        texts.append(reader.decode(read, final=ends))
    return texts


def as_text(entries: Iterable[WithText]) -> str:
    """The context as the model saw it: raw text word for word, a gist as a mark with the beginning of its passage."""
    return "".join(
        entry.text
        if entry.lod == 0
        else f"\n[LOD{entry.lod} gist of tokens {entry.start:,}-{entry.stop:,}: {' '.join(entry.text.split())} ...]\n"
        for entry in entries
    )


def _history(context: WorkingContext, slot: int, edits: dict[Node, list[tuple[int, str]]]) -> tuple[str, ...]:
    """The edits of the entry's node and of all above it, oldest first, coarse before fine."""
    lod, index, size = max(int(context.lod[slot]), 1), int(context.index[slot]), context.block_size
    said: list[tuple[int, int, str]] = []
    while size**lod <= context.num_tokens:
        for number, kind in edits.get(Node(lod, index), ()):
            said.append((number, -lod, f"refocus {number}: LOD{lod} {index:,} {_PAST[kind]}"))
        lod, index = lod + 1, index // size
    return tuple(text for _, _, text in sorted(said))
