"""What a token costs, however long the history: decoding, focusing and answering over histories of growing length.

All lengths take turns within one run, a period from refocus to refocus each, focus included, so that a change of the
machine's pace falls on all of them. The oldest facts of each history are asked for in the same run. What a process
holds of its own is measured in a process of its own for each length. Cache reuse is measured by reading the same
contexts twice: with what was kept of the one before, and from nothing.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacontext.bench.machine import machine
from megacontext.bench.measuring import KNOWS_MEMORY, held_kib, run_apart, spread, timed
from megacontext.corpus.book import load_book
from megacontext.errors import ConfigError
from megacontext.progress import Progress
from megacontext.runtime.batch import LiveBatch
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.context_cache import ContextCache
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.layout import LAYOUTS
from megacontext.runtime.live import LiveConfig, LiveSession
from megacontext.runtime.reading import read
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tasks.facts import FactsConfig, PlantedHistory, plant
from megacontext.tree import Memory

_BOOKS = (
    "emma",
    "mansfield-park",
    "northanger-abbey",
    "persuasion",
    "sense-and-sensibility",
    "pride-and-prejudice",
)
_CHUNK_TOKENS = 1 << 18
_PREFILL_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class LiveBenchConfig:
    """Lengths and budgets of a run."""

    tokens: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Lengths of history; 10,000,000 takes minutes more."""
    budget: int = 1024
    """Of decoding."""
    ask_budget: int = 256
    """Of answering: what the tiny model was trained for."""
    scorer: str = "recency"
    """Who scores while decoding; recency fills the budget at every length, so that equal positions are compared."""
    ask_scorer: str = "lensnet"
    needles: int = 8
    """Facts in the first few thousand tokens of every history."""
    rounds: int = 12
    """Periods decoded at each length, of the blocks between two refocuses."""
    plain_tokens: tuple[int, ...] = (4096, 8192)
    """Histories that the same model decodes behind while it keeps every token: what a memory is compared with."""
    together: tuple[int, ...] = (2, 4, 8)
    """How many sessions speak side by side."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tokens or min(self.tokens) < 8_192 or min(self.rounds, self.needles, *self.together) < 1:
            raise ConfigError(
                "the live bench needs histories of at least 8,192 tokens, and rounds, needles and sessions of at least "
                f"1, got {self.tokens}, {self.rounds}, {self.needles} and {self.together}; raise them"
            )


def bench_live(config: LiveBenchConfig, model: str, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures, as JSON would hold them. `say` is told which arm begins."""
    bundle = Bundle.load(model_folder(model))
    told: dict[str, Any] = {"machine": machine(), "config": vars(config)}
    with tempfile.TemporaryDirectory(prefix="megacontext-bench-") as folder:
        say("writing histories")
        planted, paths = histories(config, bundle, Path(folder))
        with ExitStack() as stack:
            encoder = BundleEncoder(bundle)
            memories = {
                tokens: stack.enter_context(Memory.open(path, encoder.identity(), encoder, writable=True))
                for tokens, path in paths.items()
            }
            say("decoding")
            told["decode"] = decoding(config, bundle, memories)
            say("keeping every token")
            told["plain"] = keeping_every_token(config, bundle)
            say("answering")
            told["answers"] = answering(config, bundle, memories, planted)
            say("side by side")
            told["together"] = side_by_side(config, bundle, memories[min(memories)])
            say("reuse across refocuses")
            told["reuse"] = {
                f"{layout}, {what}": measure(config, bundle, memories[max(memories)], planted, layout)
                for layout in LAYOUTS.names()
                for what, measure in (("decoding", reuse_in_decoding), ("asking", reuse_in_asking))
            }
        say("memory of the process")
        told["process"] = {str(tokens): _process(config, model, path) for tokens, path in paths.items()}
    return told


def decoding(config: LiveBenchConfig, bundle: Bundle, memories: dict[int, Memory]) -> dict[str, Any]:
    """Milliseconds a token at each length, and what share of a period its refocus takes."""
    sessions = {tokens: _live(bundle, memory, config) for tokens, memory in memories.items()}
    token_ms: dict[int, list[float]] = {tokens: [] for tokens in memories}
    focus_ms: dict[int, list[float]] = {tokens: [] for tokens in memories}
    period_ms: dict[int, list[float]] = {tokens: [] for tokens in memories}
    size = bundle.config.block_size
    period = size * LiveConfig().refocus_blocks
    for live in sessions.values():
        # Up to the end of a block, so that every period that is timed has one refocus, at its end.
        list(live.generate(2 * size - live.memory.num_tokens % size))
        live.refocus()
    with Progress("periods decoded", config.rounds * len(sessions)) as progress:
        for _ in range(config.rounds):
            for tokens, live in sessions.items():
                began = last = time.perf_counter()
                for _ in live.generate(period):
                    now = time.perf_counter()
                    token_ms[tokens].append(1000 * (now - last))
                    last = now
                period_ms[tokens].append(1000 * (time.perf_counter() - began))
                focus_ms[tokens].append(1000 * timed(live.refocus))
                progress.advance()
    shortest = min(memories)
    told: dict[str, Any] = {}
    for tokens, live in sessions.items():
        shares = [focus / whole for focus, whole in zip(focus_ms[tokens], period_ms[tokens], strict=True)]
        told[str(tokens)] = {
            "p50_ms": statistics.median(token_ms[tokens]),
            "p95_ms": statistics.quantiles(token_ms[tokens], n=20)[-1],
            "mean_ms": statistics.fmean(token_ms[tokens]),
            "period_ms": statistics.median(period_ms[tokens]),
            "refocus_ms": statistics.median(focus_ms[tokens]),
            "refocus_share": statistics.median(shares),
            "positions": len(live.cache),
        }
    for tokens in told.values():
        for name in ("p50_ms", "period_ms"):
            tokens[name.replace("ms", "ratio")] = tokens[name] / told[str(shortest)][name]
    return told


@torch.inference_mode()
def keeping_every_token(config: LiveBenchConfig, bundle: Bundle) -> dict[str, Any]:
    """Milliseconds a token of the same base behind a history of which every token's keys and values are kept.

    What it says is not looked at: beyond its window the tiny model says nothing of use, but it takes its time.
    """
    base, told = bundle.base, {}
    text = torch.from_numpy(bundle.tokenizer.encode(load_book(_BOOKS[0]).text).astype(np.int64))
    steps = config.rounds * bundle.config.block_size
    for tokens in config.plain_tokens:
        cache = base.reserve(1, tokens + steps)
        for start in range(0, tokens, _PREFILL_TOKENS):
            places = torch.arange(start, min(start + _PREFILL_TOKENS, tokens))
            ids = text[places % len(text)][None]
            base(base.embed(ids), places[None], ids=ids, cache=cache)
        taken = []
        for step in range(steps):
            ids, place = text[None, step : step + 1], torch.tensor([[tokens + step]])
            began = time.perf_counter()
            base.unembed(base(base.embed(ids), place, ids=ids, cache=cache))
            taken.append(1000 * (time.perf_counter() - began))
        told[str(tokens)] = {"p50_ms": statistics.median(taken), "positions": tokens}
    return told


def answering(
    config: LiveBenchConfig, bundle: Bundle, memories: dict[int, Memory], planted: PlantedHistory
) -> dict[str, Any]:
    """How many of the oldest facts are answered, and how long an answer takes."""
    told = {}
    for tokens, memory in memories.items():
        session = Session(bundle, memory, FocusConfig(budget=config.ask_budget), scorer=config.ask_scorer)
        live = LiveSession(session)
        right, answer_ms = 0, []
        for question in planted.questions:
            began = time.perf_counter()
            answer = bundle.tokenizer.decode(live.ask(question.prompt))
            answer_ms.append(1000 * (time.perf_counter() - began))
            right += answer.strip() == question.answer.strip()
        told[str(tokens)] = {
            "right": right,
            "asked": len(planted.questions),
            "answer_ms": statistics.median(answer_ms),
        }
    return told


def side_by_side(config: LiveBenchConfig, bundle: Bundle, memory: Memory) -> dict[str, Any]:
    """Milliseconds a token of several sessions, each over a history of its own, spoken together and one by one."""
    encoder, ids = BundleEncoder(bundle), memory.tokens(0, memory.num_tokens)

    def opened(count: int) -> list[LiveSession]:
        sessions = []
        for number in range(count):
            own = Memory.create(None, encoder.identity(), encoder)
            own.append(ids[: len(ids) - 37 * number])
            sessions.append(_live(bundle, own, config))
        return sessions

    period = bundle.config.block_size * LiveConfig().refocus_blocks
    told = {}
    for count in config.together:
        batch, alone = LiveBatch(opened(count)), opened(count)
        together_ms, alone_ms = [], []
        said: list[list[int | None]] = []
        for _ in range(max(2, config.rounds // 2)):
            began = time.perf_counter()
            said = list(batch.generate(period))
            together_ms.append(1000 * (time.perf_counter() - began) / (count * period))
            began = time.perf_counter()
            each = [list(live.generate(period)) for live in alone]
            alone_ms.append(1000 * (time.perf_counter() - began) / (count * period))
            assert [list(row) for row in zip(*said, strict=True)] == each, "together they say something else"
        ratios = [one / both for one, both in zip(alone_ms, together_ms, strict=True)]
        told[str(count)] = {
            "together_ms": statistics.median(together_ms),
            "alone_ms": statistics.median(alone_ms),
            **spread("speedup", ratios),
        }
    return told


def reuse_in_decoding(
    config: LiveBenchConfig, bundle: Bundle, memory: Memory, planted: PlantedHistory, layout: str
) -> dict[str, Any]:
    """Reading what each refocus of a long decoding leaves, with what was kept of the reading before, and anew."""
    live = _live(bundle, memory, config, layout)
    size = memory.block_size
    list(live.generate(2 * size - memory.num_tokens % size))

    def changes() -> Iterator[None]:
        for _ in range(4 * config.rounds):
            list(live.generate(size - 1))
            live.memory.append(np.array([bundle.tokenizer.bos_id], dtype=np.int32))
            live.refocus()
            yield

    return _raced(config, bundle, live, layout, changes())


def reuse_in_asking(
    config: LiveBenchConfig, bundle: Bundle, memory: Memory, planted: PlantedHistory, layout: str
) -> dict[str, Any]:
    """The same where each refocus is for another question, whose answer lies somewhere else in the history."""
    live = _live(bundle, memory, config, layout, scorer=config.ask_scorer)
    rng = np.random.default_rng(config.seed)

    def changes() -> Iterator[None]:
        for _ in range(4 * config.rounds):
            # What a stretch of the history says, as a question that its own block answers.
            start = int(rng.integers(memory.num_tokens - 64))
            live.refocus(memory.tokens(start, start + 24))
            yield

    return _raced(config, bundle, live, layout, changes())


def _raced(
    config: LiveBenchConfig, bundle: Bundle, live: LiveSession, layout: str, changes: Iterator[None]
) -> dict[str, Any]:
    """Read after every change, once on top of what is kept and once into an empty cache; both must say the same."""
    anew = ContextCache(bundle.base, config.budget)
    kept_ms, anew_ms, shares = [], [], []
    for _ in changes:
        nothing = np.zeros(0, dtype=np.int32)
        reading = read(
            live.context, live.memory, nothing, bundle.config.positions, layout=layout, covered=live.covered
        )
        began = time.perf_counter()
        report = live.cache.read(reading)
        kept_ms.append(1000 * (time.perf_counter() - began))
        anew.clear()
        began = time.perf_counter()
        fresh = anew.read(reading)
        anew_ms.append(1000 * (time.perf_counter() - began))
        assert torch.allclose(report.hidden, fresh.hidden, atol=1e-3), "a kept row was stale"
        shares.append(report.reused_share)
    # The first quarter fills the context.
    settled = len(kept_ms) // 4
    kept_ms, anew_ms, shares = kept_ms[settled:], anew_ms[settled:], shares[settled:]
    ratios = [full / kept for full, kept in zip(anew_ms, kept_ms, strict=True)]
    return {
        "rows": len(live.cache),
        "reused_share": statistics.fmean(shares),
        "kept_ms": statistics.fmean(kept_ms),
        "anew_ms": statistics.fmean(anew_ms),
        "speedup_of_means": statistics.fmean(anew_ms) / statistics.fmean(kept_ms),
        **spread("speedup", ratios),
    }


def _live(
    bundle: Bundle, memory: Memory, config: LiveBenchConfig, layout: str = "timeline", scorer: str = ""
) -> LiveSession:
    session = Session(bundle, memory, FocusConfig(budget=config.budget), scorer=scorer or config.scorer)
    return LiveSession(session, LiveConfig(layout=layout))


def histories(
    config: LiveBenchConfig, bundle: Bundle, folder: Path
) -> tuple[PlantedHistory, dict[int, Path]]:
    """A memory of each length: facts in its first pages, then novels again and again."""
    encoder, tokenizer = BundleEncoder(bundle), bundle.tokenizer
    text = np.concatenate([tokenizer.encode(load_book(book).text) for book in _BOOKS])
    facts = FactsConfig(keys=config.needles, superseded_share=0.0)
    planted = plant(text[:4096], tokenizer, facts, np.random.default_rng(config.seed))
    paths = {}
    with Progress("tokens", sum(config.tokens)) as progress:
        for tokens in config.tokens:
            rest = np.resize(text[4096:], tokens - len(planted.ids))
            ids = np.concatenate([planted.ids, rest])
            paths[tokens] = folder / str(tokens)
            with Memory.create(paths[tokens], encoder.identity(), encoder) as memory:
                for start in range(0, tokens, _CHUNK_TOKENS):
                    part = ids[start : start + _CHUNK_TOKENS]
                    memory.append(part)
                    progress.advance(steps=len(part))
                assert np.array_equal(memory.tokens(0, len(planted.ids)), planted.ids)
    return planted, paths


_CHILD = """
import json, sys
from pathlib import Path
from megacontext.bench.live import LiveBenchConfig, held_by_process
print(json.dumps(held_by_process(LiveBenchConfig(**json.loads(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))))
"""


def _process(config: LiveBenchConfig, model: str, path: Path) -> dict[str, int]:
    if not KNOWS_MEMORY:
        return {}
    given = json.dumps(vars(config) | {"tokens": list(config.tokens)})
    return run_apart(_CHILD, given, model, str(path))


def held_by_process(config: LiveBenchConfig, model: str, path: Path) -> dict[str, int]:
    """KiB that this process holds of its own after decoding and answering over one memory; files' pages beside it."""
    bundle = Bundle.load(model_folder(model))
    encoder = BundleEncoder(bundle)
    with Memory.open(path, encoder.identity(), encoder, writable=True) as memory:
        list(_live(bundle, memory, config).generate(2 * memory.block_size))
        session = Session(bundle, memory, FocusConfig(budget=config.ask_budget), scorer=config.ask_scorer)
        LiveSession(session).ask("What was the first thing that was said?")
        held = held_kib()
    return {"anonymous_kib": held["RssAnon"], "mapped_kib": held["RssFile"]}
