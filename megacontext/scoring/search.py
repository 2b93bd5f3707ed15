"""Finding places in a memory: by words, by meaning, or by exact text, in one pass over it and with flat memory.

No index is kept: a pass reads some hundred thousand tokens in a second, and what is found is always of the history as
it is. Words are ranked by BM25 (Robertson and Zaragoza 2009, with Lucene's idf, which is never negative) over blocks
with the tokens in front of them that their addresses have seen; meaning by the dot product of addresses.

Deliberately ignorant of working contexts: for their scores see the scorers.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.index.postings import K1, B
from megacontext.index.texts import block_texts, words
from megacontext.tokenizer import Tokenizer
from megacontext.tree import Memory

_BLOCKS_AT_ONCE = 4096

Told = Callable[[int], None]
"""Told how many tokens have been read."""


@dataclass(frozen=True)
class Hit:
    """Tokens [start, stop) of the history, and how well they fit; for exact text 1."""

    start: int
    stop: int
    score: float


def search_words(
    memory: Memory, tokenizer: Tokenizer, query: str, most: int, told: Told | None = None
) -> list[Hit]:
    """The blocks whose words fit those of the query best, the best first. Raises ConfigError for a query of none."""
    terms = sorted(set(words(query)))
    if not terms:
        raise ConfigError(f"a search by words needs a word, got {query!r}; search with --by text for signs")
    found, lengths, blocks = [], 0, 0
    for block, text in _block_texts(memory, tokenizer, told):
        said = words(text)
        lengths, blocks = lengths + len(said), blocks + 1
        counts = [said.count(term) for term in terms]
        if any(counts):
            found.append((block, len(said), counts))
    if not found:
        return []
    frequency = np.array([counts for _, _, counts in found], dtype=np.float64)  # (n, terms)
    document_frequency = (frequency > 0).sum(axis=0)
    idf = np.log1p((blocks - document_frequency + 0.5) / (document_frequency + 0.5))
    length = np.array([length for _, length, _ in found])[:, None] / (lengths / blocks)
    scores = (idf * frequency * (K1 + 1) / (frequency + K1 * (1 - B + B * length))).sum(axis=1)
    best = np.argsort(-scores, kind="stable")[:most]
    size = memory.block_size
    return [Hit(found[i][0] * size, (found[i][0] + 1) * size, float(scores[i])) for i in best]


def search_meaning(memory: Memory, question: np.ndarray, most: int, told: Told | None = None) -> list[Hit]:
    """The blocks whose addresses fit the address (A,) of a question best, the best first."""
    best: list[tuple[float, int]] = []
    for first in range(0, memory.num_blocks, _BLOCKS_AT_ONCE):
        matches = memory.addresses(first, min(first + _BLOCKS_AT_ONCE, memory.num_blocks)) @ question
        top = np.argsort(-matches, kind="stable")[:most]
        best = heapq.nlargest(most, best + [(float(matches[at]), -(first + int(at))) for at in top])
        if told is not None:
            told((first + len(matches)) * memory.block_size)
    size = memory.block_size
    return [Hit(-block * size, (1 - block) * size, score) for score, block in best]


def search_text(
    memory: Memory, tokenizer: Tokenizer, text: str, most: int, told: Told | None = None
) -> list[Hit]:
    """The first places where exactly this text stands, whatever tokens it was cut into, in time order."""
    needle = text.encode()
    if not needle:
        raise ConfigError("a search for a text needs a text, got none; give one")
    token_bytes = np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)])
    hits: list[Hit] = []
    chunk, num_tokens = _BLOCKS_AT_ONCE * memory.block_size, memory.num_tokens
    for start in range(0, num_tokens, chunk):
        # A token has a byte at least: so many tokens more hold whatever begins in this chunk.
        ids = memory.tokens(start, min(start + chunk + len(needle), num_tokens))
        ends = np.cumsum(token_bytes[ids])
        raw = b"".join(map(tokenizer.token_bytes, ids.tolist()))
        at = raw.find(needle)
        while at >= 0 and len(hits) < most:
            first = int(np.searchsorted(ends, at, side="right"))
            if first >= chunk:
                break
            last = int(np.searchsorted(ends, at + len(needle), side="left"))
            hits.append(Hit(start + first, start + last + 1, 1.0))
            at = raw.find(needle, at + 1)
        if told is not None:
            told(min(start + chunk, num_tokens))
        if len(hits) >= most:
            break
    return hits


def _block_texts(memory: Memory, tokenizer: Tokenizer, told: Told | None) -> Iterator[tuple[int, str]]:
    """Every block with its left tokens, and the unfinished one, as text."""
    size, num_tokens = memory.block_size, memory.num_tokens
    left = memory.left_tokens if memory.catalogue.versions else 0
    for first in range(0, math.ceil(num_tokens / size), _BLOCKS_AT_ONCE):
        stop = first + _BLOCKS_AT_ONCE
        yield from enumerate(block_texts(memory, tokenizer, first, stop, left), start=first)
        if told is not None:
            told(min(stop * size, num_tokens))
