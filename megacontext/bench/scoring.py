"""What a question costs the scorers over histories of growing length, and what their indexes cost to make and keep.

A history is prose in random order with random addresses, so that ten million tokens are in the tree within seconds and
words are as frequent as words are. Each arm first checks what it is about to time. What a process holds of its own is
measured in a fresh one for each length, which finds the indexes on disk as a session would.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.bench.machine import machine
from megacontext.bench.measuring import KNOWS_MEMORY, held_kib, run_apart, spread
from megacontext.corpus.book import load_book
from megacontext.errors import ConfigError
from megacontext.focus.context import Edit, WorkingContext
from megacontext.index import AddressIndex, WordIndex, words
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder
from megacontext.scoring import SCORERS, Question, ScorerParts
from megacontext.tree import Identity, Memory
from megacontext.tree.derived import DERIVED_FOLDER

_BOOKS = ("emma", "persuasion", "pride-and-prejudice")
_STRETCH = 1024
"""Tokens of prose in a row."""
_QUESTION_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class ScoringBenchConfig:
    """Sizes of a run."""

    tokens: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    """Lengths of history."""
    budget: int = 1024
    """Positions of the context that is scored."""
    questions: int = 30
    """Timed questions of each scorer."""
    scorers: tuple[str, ...] = (
        "recency",
        "random",
        "bm25",
        "dense",
        "lensnet",
        "lensnet+bm25",
        "dense+bm25",
    )
    """Attention mass is left out: it costs a reading of the context, and nothing of the history."""

    def __post_init__(self) -> None:
        for name in self.scorers:
            SCORERS.get(name)
        if not self.tokens or min(self.tokens) < 2 * _STRETCH or min(self.questions, len(self.scorers)) < 1:
            raise ConfigError(
                f"the scoring bench needs histories of at least {2 * _STRETCH:,} tokens, a question and a scorer, got "
                f"{self.tokens}, {self.questions} and {self.scorers}; raise them"
            )


@dataclass(frozen=True)
class RandomVectors:
    """A gist encoder that costs nearly nothing: random gists and random unit addresses, chosen by a block's ids."""

    gist_width: int
    address_width: int
    block_size: int
    left_tokens: int
    fingerprint: str = "random-vectors"
    _rows: int = field(default=8191, repr=False)

    @cached_property
    def _table(self) -> np.ndarray:
        width = self.gist_width + self.address_width
        return np.random.default_rng(0).standard_normal((self._rows, width)).astype(np.float32)

    def encode_blocks(self, tokens: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = tokens.astype(np.int64) @ np.arange(1, 2 * self.block_size, 2)
        rows = self._table[places % self._rows] + self._table[places // 7 % self._rows]
        gists, addresses = rows[:, : self.gist_width], rows[:, self.gist_width :]
        return gists, addresses / np.linalg.norm(addresses, axis=1, keepdims=True)

    def encode_parents(self, children: np.ndarray, lod: int) -> np.ndarray:
        return children[:, 0]


def bench_scoring(config: ScoringBenchConfig, bundle: Bundle, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures, as JSON would hold them. `say` is told which arm begins."""
    told: dict[str, Any] = {"machine": machine(), "config": vars(config), "lengths": []}
    with tempfile.TemporaryDirectory(prefix="megacontext-bench-") as folder:
        bundle.save(Path(folder) / "model")
        for tokens in config.tokens:
            path = Path(folder) / f"memory-{tokens}"
            say(f"{tokens:,} tokens: history and indexes")
            _history(path, tokens, bundle)
            row: dict[str, Any] = {"tokens": tokens, "index": _indexes(path, bundle)}
            say(f"{tokens:,} tokens: questions")
            row["scorers"] = _questions(path, config, bundle)
            say(f"{tokens:,} tokens: a process of its own")
            row["memory"] = _process_memory(path, Path(folder) / "model", config)
            told["lengths"].append(row)
    return told


def _encoder(bundle: Bundle) -> tuple[RandomVectors, Identity]:
    """Random vectors of the bundle's widths, and the identity of a memory that is made with them."""
    real = BundleEncoder(bundle)
    encoder = RandomVectors(real.gist_width, real.address_width, real.block_size, real.left_tokens)
    return encoder, Identity(
        tokenizer=bundle.tokenizer.fingerprint,
        embedding="bench",
        encoder=encoder.fingerprint,
        block_size=encoder.block_size,
    )


def _prose(bundle: Bundle) -> np.ndarray:
    return np.concatenate([bundle.tokenizer.encode(load_book(name).text) for name in _BOOKS])


def _history(path: Path, tokens: int, bundle: Bundle) -> None:
    encoder, identity = _encoder(bundle)
    prose, rng = _prose(bundle), np.random.default_rng(0)
    with Memory.create(path, identity, encoder) as memory:
        while memory.num_tokens < tokens:
            starts = rng.integers(0, len(prose) - _STRETCH, size=256)
            rows = np.concatenate([prose[start : start + _STRETCH] for start in starts])
            memory.append(rows[: tokens - memory.num_tokens])


def _indexes(path: Path, bundle: Bundle) -> dict[str, float]:
    """Rates of making both indexes, what they take on disk, and what one more block, and opening, costs."""
    encoder, identity = _encoder(bundle)
    with Memory.open(path, identity, encoder, writable=True) as memory:
        tokens = memory.num_tokens
        began = time.perf_counter()
        addresses = AddressIndex.of(memory)
        addressed = time.perf_counter()
        postings = WordIndex.of(memory, bundle.tokenizer)
        done = time.perf_counter()
        _check(memory, addresses, postings, bundle)
        sizes = {
            kind: sum(file.stat().st_size for file in (path / DERIVED_FOLDER).glob(f"{kind}-*"))
            for kind in ("addresses", "words")
        }
        followed = []
        for block in memory.blocks(range(memory.num_blocks - 9, memory.num_blocks)):
            memory.append(block)
            start = time.perf_counter()
            AddressIndex.of(memory)
            WordIndex.of(memory, bundle.tokenizer)
            followed.append(1000 * (time.perf_counter() - start))
    with Memory.open(path, identity) as memory:
        start = time.perf_counter()
        AddressIndex.of(memory)
        WordIndex.of(memory, bundle.tokenizer)
        found_ms = 1000 * (time.perf_counter() - start)
    return {
        "addresses_tokens_per_s": tokens / (addressed - began),
        "words_tokens_per_s": tokens / (done - addressed),
        "addresses_bytes_per_token": sizes["addresses"] / tokens,
        "words_bytes_per_token": sizes["words"] / tokens,
        "follow_block_ms": statistics.median(followed),
        "open_ms": found_ms,
    }


def _check(memory: Memory, addresses: AddressIndex, postings: WordIndex, bundle: Bundle) -> None:
    """Matches are those of the stored addresses, and a block is found by its own words."""
    rng = np.random.default_rng(1)
    question = rng.standard_normal(memory.address_width).astype(np.float32)
    matches = addresses.matches(question)
    for block in rng.integers(0, memory.num_blocks, size=50).tolist():
        (stored,) = memory.addresses(block, block + 1)
        assert abs(matches[block] - stored @ question) < 1e-4
        said = words(bundle.tokenizer.decode(memory.blocks([block])[0]))
        scores = postings.scores(said)
        assert not said or scores[block] >= 0.9 * np.partition(scores, -3)[-3]


def _questions(path: Path, config: ScoringBenchConfig, bundle: Bundle) -> dict[str, dict[str, float]]:
    """Milliseconds of each scorer: to look at a question, and to score a context of the budget then."""
    _, identity = _encoder(bundle)
    told: dict[str, dict[str, float]] = {}
    with Memory.open(path, identity) as memory:
        context = _context(memory, config.budget)
        asked = _asked(config.questions, bundle)
        for name in config.scorers:
            scorer = SCORERS.get(name)(_parts(memory, config, bundle))
            scorer.ask(asked[0])(context)  # warms pages and allocator
            ask_ms, score_ms = [], []
            for question in asked:
                began = time.perf_counter()
                score = scorer.ask(question)
                looked = time.perf_counter()
                scores = score(context)
                score_ms.append(1000 * (time.perf_counter() - looked))
                ask_ms.append(1000 * (looked - began))
                assert scores.shape == (len(context),) and np.abs(scores).max() <= 1
            told[name] = {**spread("ask_ms", ask_ms), **spread("score_ms", score_ms)}
    return told


def _parts(memory: Memory, config: ScoringBenchConfig, bundle: Bundle) -> ScorerParts:
    return ScorerParts(
        memory=memory,
        tokenizer=bundle.tokenizer,
        encoder=BundleEncoder(bundle),
        lens=bundle.lens,
        room_blocks=max(1, config.budget // memory.block_size),
        seed=0,
    )


def _context(memory: Memory, budget: int) -> WorkingContext:
    """The cover of the history, opened at random places until the budget is spent."""
    rng = np.random.default_rng(2)
    context = WorkingContext.cover(memory.num_tokens, memory.block_size)
    while context.lod.any() and context.cost + memory.block_size - 1 <= budget:
        context = context.edited([Edit("expand", int(rng.choice(np.flatnonzero(context.lod))))])
    return context


def _asked(count: int, bundle: Bundle) -> list[Question]:
    prose, rng = _prose(bundle), np.random.default_rng(3)
    starts = rng.integers(0, len(prose) - _QUESTION_TOKENS, size=count)
    return [
        Question(number=number, ids=prose[start : start + _QUESTION_TOKENS])
        for number, start in enumerate(starts.tolist())
    ]


_PROCESS = """
import json, sys
from pathlib import Path
from megacontext.bench.scoring import held_while_asking
told = json.loads(sys.argv[3])
print(json.dumps(held_while_asking(Path(sys.argv[1]), Path(sys.argv[2]), told)))
"""


def _process_memory(path: Path, model: Path, config: ScoringBenchConfig) -> dict[str, Any]:
    if not KNOWS_MEMORY:
        return {"skipped": "needs /proc/self/status"}
    told = json.dumps({"budget": config.budget, "scorers": config.scorers})
    return run_apart(_PROCESS, str(path), str(model), told)


def held_while_asking(path: Path, model: Path, told: dict[str, Any]) -> dict[str, int]:
    """Memory of its own (RssAnon) that this process has, and has gained since before, after every scorer's questions.

    To be called in a fresh process. Mapped pages are counted beside it: they are the system's cache.
    """
    config = ScoringBenchConfig(budget=told["budget"], scorers=tuple(told["scorers"]))
    bundle = Bundle.load(model)
    asked = _asked(8, bundle)
    BundleEncoder(bundle).encode_question(asked[0].ids)
    before = held_kib()
    with Memory.open(path, _encoder(bundle)[1]) as memory:
        context = _context(memory, config.budget)
        scorers = [SCORERS.get(name)(_parts(memory, config, bundle)) for name in config.scorers]
        for question in asked:
            for scorer in scorers:
                scorer.ask(question)(context)
        after = held_kib()
    return {
        "anonymous_kib": after["RssAnon"],
        "grown_kib": after["RssAnon"] - before["RssAnon"],
        "mapped_kib": after["RssFile"],
        "most_kib": after["VmHWM"],
    }
