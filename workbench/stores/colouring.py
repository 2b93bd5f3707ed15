"""The ways to colour a tree: what each value means, where it comes from, and how to tell values apart.

A colouring answers one question about every node of a memory: how much is it like what was asked, how did the selected
step judge it, how long did working contexts keep it, when was it opened last, which document does it belong to, which
gist version covers it. Values come from telemetry, from the memory's own records or from an index; nothing is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

from megacontext.errors import StaleGistError
from megacontext.index import WordIndex, words
from megacontext.index.segments import Arrays
from megacontext.tokenizer import Tokenizer
from megacontext.tree import Memory
from megacontext.tree.documents import Document
from workbench.stores.background import Job
from workbench.stores.levels import Levels
from workbench.stores.memory import MemoryStore
from workbench.stores.run import RunStore

COLOURINGS = {
    "similarity": "Similarity to the run's question",
    "score": "Score of the selected step",
    "meaning": "Meaning of a query",
    "words": "Words of a query",
    "residency": "Time in working contexts",
    "expanded": "Last expanded",
    "document": "Document",
    "version": "Gist version",
}
"""Name of each colouring in an address, and in words."""

OF_A_RUN = ("similarity", "score")
OF_A_QUERY = ("meaning", "words")

Form = Literal["signed", "score", "plain", "share", "minutes", "class"]
"""How a value is written, and which scale it takes: `score` has a middle, 0."""


@dataclass(frozen=True)
class Colouring:
    """Values of all nodes, and what is needed to read them."""

    levels: Levels
    what: str
    """What a value is, with its unit."""
    form: Form
    limits: tuple[float, float]
    classes: dict[int, str] = field(default_factory=dict)
    """Names of the classes, where values name classes."""
    note: str = ""
    """What must be known to read the colours right."""


def similarity(run: RunStore, history: str, question: int, num_tokens: int, size: int) -> Colouring | None:
    """Cosine of each block's address with the question's, as the run recorded it; None where it was not traced."""
    scores = run.block_scores(history, question)
    if scores.is_empty():
        return None
    levels = Levels.of_blocks(scores["score"].to_numpy()[: num_tokens // size], num_tokens, size)
    return Colouring(levels, "cosine with the question's address, highest below", "signed", levels.limits())


def step_scores(entries: pl.DataFrame, num_tokens: int, size: int) -> Colouring | None:
    """The score that a working context gave to whatever covers each block; None where there are no entries.

    `entries` are those of one refocus step (columns start, stop, score), which tile the history.
    """
    known = entries.filter(pl.col("score").is_not_null()).sort("start")
    if known.is_empty():
        return None
    starts, scores = known["start"].to_numpy(), known["score"].to_numpy()
    blocks = np.arange(num_tokens // size) * size
    at = np.searchsorted(starts, blocks, side="right") - 1
    stops = known["stop"].to_numpy()
    inside = (at >= 0) & (blocks < stops[np.maximum(at, 0)])
    values = np.where(inside, scores[np.maximum(at, 0)], np.nan)
    levels = Levels.of_blocks(values, num_tokens, size)
    return Colouring(
        levels, "score of the entry that covers it, highest below", "score", (-1.0, 1.0),
        note="positive asks for more detail, negative for less",
    )  # fmt: skip


# Of the memory's records.


@dataclass(frozen=True)
class AccessTable:
    """Access counts of every node that was ever in a working context, as columns (n,)."""

    steps: int
    lod: np.ndarray
    index: np.ndarray
    residency: np.ndarray
    """Share of the recorded steps at which it was in the context, as gist or as tokens."""
    last_expanded_ms: np.ndarray
    """Since 1970; 0 for never."""


def access_table(store: MemoryStore) -> Job[AccessTable]:
    """All counts, read in the background; read again when more steps were recorded."""
    steps = store.memory.access.steps

    def read(job: Job[AccessTable]) -> AccessTable:
        job.tell("reading access counts")
        rows = []
        for at, node in enumerate(store.memory.access):
            if at % 4096 == 0:
                job.tell()
            rows.append((node.lod, node.index, node.residency, node.last_expanded_ms))
        columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
        return AccessTable(
            steps, columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2], columns[3]
        )

    return store.job(("access", steps), read)


def residency(table: AccessTable, num_tokens: int, size: int) -> Colouring:
    """Share of recorded refocus steps at which a node was in the working context."""
    levels = Levels.of_nodes(table.lod, table.index, table.residency, num_tokens, size)
    highest = max((float(np.nanmax(v)) for v in levels.values if np.isfinite(v).any()), default=1.0)
    return Colouring(
        levels, "share of refocus steps in the working context", "share", (0.0, highest or 1.0),
        note=f"over {table.steps:,} recorded steps; a node without colour never was in one",
    )  # fmt: skip


def last_expanded(table: AccessTable, num_tokens: int, size: int) -> Colouring | None:
    """Minutes between a node's last expansion and the newest one of all; None where nothing was expanded yet."""
    known = table.last_expanded_ms > 0
    if not known.any():
        return None
    newest = table.last_expanded_ms[known].max()
    minutes = (table.last_expanded_ms[known] - newest) / 60_000
    levels = Levels.of_nodes(table.lod[known], table.index[known], minutes, num_tokens, size)
    low = float(minutes.min())
    stamp = time.strftime("%d %b %Y, %H:%M:%S UTC", time.gmtime(newest / 1000))
    return Colouring(
        levels, "minutes before the newest expansion", "minutes", (low if low < 0 else -1.0, 0.0),
        note=f"the newest was on {stamp}; a node without colour was never expanded",
    )  # fmt: skip


def document_table(store: MemoryStore) -> Job[list[Document]]:
    """All documents in order, read in the background."""
    num_documents = len(store.memory.documents)

    def read(job: Job[list[Document]]) -> list[Document]:
        job.tell("reading documents")
        found = []
        for number in range(num_documents):
            if number % 256 == 0:
                job.tell(share=number / num_documents)
            found.append(store.memory.documents[number])
        return found

    # The last document grows while it is written: its end is the history's, which `by_document` sees to.
    return store.job(("documents", num_documents, store.memory.revision), read)


def by_document(documents: list[Document], num_tokens: int, size: int) -> Colouring:
    """Which document the middle of each block belongs to; tokens of none stay without colour."""
    middles = np.arange(num_tokens // size) * size + size // 2
    starts = np.array([document.start for document in documents], dtype=np.int64)
    stops = np.array([document.stop for document in documents], dtype=np.int64)
    if len(documents) and documents[-1].state == "open":
        stops[-1] = max(stops[-1], num_tokens)
    at = np.searchsorted(starts, middles, side="right") - 1
    inside = (at >= 0) & (middles < stops[np.maximum(at, 0)]) if len(documents) else np.zeros(len(at), bool)
    levels = Levels.of_blocks(np.where(inside, at, np.nan), num_tokens, size, "class")
    names = {one.number: one.name or f"document {one.number}, {one.state}" for one in documents}
    return Colouring(levels, "document", "class", (0.0, 1.0), names)


def by_version(memory: Memory, num_tokens: int) -> Colouring:
    """The version whose gists a reader of the memory gets at each block: the active one where it covers, else the
    newest other that does; class 0 is no gist at all."""
    size, catalogue = memory.block_size, memory.catalogue
    count = num_tokens // size
    blocks, values = np.arange(count), np.zeros(count)
    versions = sorted(catalogue.versions, key=lambda one: (one.number == catalogue.active, one.number))
    for version in versions:
        values[version.covers(blocks, blocks + 1, count)] = version.number
    names = {0: "no gists yet"} | {
        one.number: f"version {one.number}, {'read' if one.number == catalogue.active else 'not read'}"
        for one in versions
    }
    stale = int((values != catalogue.active).sum()) if catalogue.active else 0
    note = f"{stale:,} of {count:,} blocks are not covered by the version that is read" if stale else ""
    return Colouring(
        Levels.of_blocks(values, num_tokens, size, "class"), "gist version", "class", (0.0, 1.0), names, note
    )


# Of a query.


def by_meaning(store: MemoryStore, query: str, owner: Hashable) -> Job[Colouring]:
    """Dot product of each block's address with the query's. Fails with a sentence where no model here can ask."""
    num_tokens, revision = store.state

    def compute(job: Job[Colouring]) -> Colouring:
        asker = store.questioner()
        while not asker.wait(0.1):
            job.tell(asker.what)
        if asker.failed:
            raise StaleGistError(asker.sentence)
        job.tell("matching addresses")
        with store.lock:
            index = store.addresses(asker.result.version)
            matches = index.matches(asker.result.address(query))
        levels = Levels.of_blocks(matches[: num_tokens // store.block_size], num_tokens, store.block_size)
        return Colouring(levels, "similarity of addresses, highest below", "signed", levels.limits())

    return store.latest(owner, "meaning", (query, num_tokens, revision), compute)


def by_words(store: MemoryStore, query: str, owner: Hashable) -> Job[Colouring]:
    """BM25 of each block for the words of a query. The first one makes an index of all words."""
    num_tokens, revision = store.state

    def compute(job: Job[Colouring]) -> Colouring:
        vocabulary = store.vocabulary()
        while not vocabulary.wait(0.1):
            job.tell(vocabulary.what)
        if vocabulary.failed:
            raise StaleGistError(vocabulary.sentence)
        with store.lock:
            tokenizer = vocabulary.result
            index = store.memory.derived(
                ("told words", tokenizer.fingerprint), lambda: ToldWordIndex(store.memory, tokenizer)
            )
            index.job = job
            index.follow()
            scores = index.scores(words(query))
        levels = Levels.of_blocks(scores[: num_tokens // store.block_size], num_tokens, store.block_size)
        low, high = levels.limits()
        return Colouring(levels, "BM25 of the query's words, highest below", "plain", (min(low, 0.0), high))

    return store.latest(owner, "words", (query, num_tokens, revision), compute)


class ToldWordIndex(WordIndex):
    """An index of words that tells how far it has come, and ends where nobody waits for it."""

    def __init__(self, memory: Memory, tokenizer: Tokenizer):
        super().__init__(memory, tokenizer)
        self.job: Job[Colouring] | None = None

    def make(self, first: int, stop: int) -> Arrays:
        if self.job is not None:
            self.job.tell("indexing words", stop / max(self._memory.num_blocks, 1))
        return super().make(first, stop)
