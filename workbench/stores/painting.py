"""From the name of a colouring to its values: at once where they are cheap, in the background where they are not.

A tree may be that of a memory, of a traced question of a run that kept no memory, or both; which colourings it can have
follows from that. Where one cannot be had, a sentence says what is missing and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from workbench.stores import colouring
from workbench.stores.background import Job
from workbench.stores.colouring import COLOURINGS, OF_A_QUERY, OF_A_RUN, Colouring
from workbench.stores.levels import Levels
from workbench.stores.memory import MemoryStore
from workbench.stores.run import RunStore


@dataclass(frozen=True)
class Subject:
    """The tree of one history, and who knows of it."""

    num_tokens: int
    block_size: int
    memory: MemoryStore | None
    run: RunStore | None
    """The run that asked questions of this history."""
    history: str
    """What the run calls it; empty where there is no run."""
    question: int
    arm: str
    step: int
    """-1 for the last."""
    query: str


class Pending(NamedTuple):
    """Values that are on their way: what is waited for, and what is made of it once it has come without failing."""

    job: Job[Any]
    finish: Callable[[Any], Colouring | str]


def offered(subject: Subject) -> dict[str, str]:
    """The colourings that make sense for a tree: names, and words."""
    hidden: set[str] = set()
    if subject.memory is None:
        hidden |= COLOURINGS.keys() - set(OF_A_RUN)
    if subject.run is None:
        hidden |= set(OF_A_RUN)
    return {words: name for name, words in COLOURINGS.items() if name not in hidden}


def suiting(subject: Subject) -> str:
    """The colouring to begin with: what was asked, else where it comes from, else what was read."""
    if subject.run is not None and (subject.memory is None or subject.arm):
        return "similarity"
    assert subject.memory is not None
    memory = subject.memory.memory
    if len(memory.documents) > 1:
        return "document"
    return "residency" if memory.access.steps else "version"


def key_of(name: str, subject: Subject) -> Hashable:
    """Equal as long as the values are the same: drawing and asking anew can be left out."""
    tree = (name, subject.num_tokens, subject.block_size, subject.history, id(subject.memory))
    if name in OF_A_RUN:
        assert subject.run is not None
        rows = len(subject.run.frame("block_score" if name == "similarity" else "entry"))
        return (*tree, subject.question, subject.arm, subject.step, rows)
    assert subject.memory is not None
    memory = subject.memory.memory
    if name in OF_A_QUERY:
        return (*tree, subject.query, memory.revision)
    if name in ("residency", "expanded"):
        return (*tree, memory.access.steps)
    return (*tree, memory.revision)


def ask(name: str, subject: Subject, owner: Hashable) -> Colouring | Pending | str:
    """The values of a colouring, or what they wait for, or why there are none. `owner` is the page that asks."""
    num_tokens, size = subject.num_tokens, subject.block_size
    if name in OF_A_RUN:
        return _of_a_run(name, subject)
    store = subject.memory
    if store is None:
        return "This run kept no memory of the history; run it again to colour by what a memory knows."
    if name in OF_A_QUERY:
        if not subject.query.strip():
            return "Type a query to colour by."
        by = colouring.by_meaning if name == "meaning" else colouring.by_words
        return Pending(by(store, subject.query, owner), lambda found: found)
    if name == "residency":
        if not store.memory.access.steps:
            return _NEVER_READ
        return Pending(
            colouring.access_table(store), lambda table: colouring.residency(table, num_tokens, size)
        )
    if name == "expanded":
        nothing = (
            _NEVER_READ if not store.memory.access.steps else "No node of this memory was ever expanded."
        )
        return Pending(
            colouring.access_table(store),
            lambda table: colouring.last_expanded(table, num_tokens, size) or nothing,
        )
    if name == "document":
        if not len(store.memory.documents):
            return "This memory has no documents: its tokens were appended as they came."
        return Pending(
            colouring.document_table(store), lambda table: colouring.by_document(table, num_tokens, size)
        )
    if not store.memory.catalogue.versions:
        return "This memory holds tokens and no gists yet; make them with `megacontext memory refresh`."
    return colouring.by_version(store.memory, num_tokens)


def without_values(subject: Subject) -> Levels:
    """The bare tree."""
    return Levels.of_blocks(np.empty(0, dtype=np.float32), subject.num_tokens, subject.block_size)


_NEVER_READ = (
    "No refocus step was recorded in this memory yet; they are, once a session that may write to it reads it."
)


def _of_a_run(name: str, subject: Subject) -> Colouring | str:
    run, num_tokens, size = subject.run, subject.num_tokens, subject.block_size
    if run is None:
        return "No run asks questions of this memory; choose another colouring."
    if name == "similarity":
        found = colouring.similarity(run, subject.history, subject.question, num_tokens, size)
        return found or (
            "This question was not traced. Choose one marked “traced” in the list of questions; "
            "`megacontext demo --help` says how to trace more."
        )
    entries = run.entries(subject.history, subject.arm, subject.question) if subject.arm else pl.DataFrame()
    if entries.is_empty():
        return "No refocus steps of this question and arm were recorded; choose a question marked “traced”."
    step = subject.step if subject.step >= 0 else int(entries["step"].max())
    return (
        colouring.step_scores(entries.filter(pl.col("step") == step), num_tokens, size)
        or "This step has no scores."
    )
