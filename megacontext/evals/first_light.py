"""First light: facts planted in a book, asked for when their blocks left the window long ago.

Every arm reads the same histories with the same weights at the same budget; arms differ in the scorer that tells the
one allocator where detail is needed. `none` reads the question alone. Answers count by exact match of the whole line.
Intervals are Wilson's at 95 %. The equal-budget rule holds by construction: every reading is measured at the
attention's input and refused above the budget.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from megacontext.corpus.book import Book, load_book
from megacontext.errors import ConfigError
from megacontext.evals.statistics import wilson
from megacontext.focus.context import check_budget
from megacontext.index.addresses import AddressIndex
from megacontext.models.gpt import KVCache
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.reading import Reading
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import Focus, FocusConfig, Session, starting_context
from megacontext.scoring import SCORERS
from megacontext.tasks.facts import FactsConfig, PlantedHistory, Question, plant
from megacontext.tokenizer import Tokenizer
from megacontext.tree.memory import Memory

NO_CONTEXT = "none"
HEADS = "&"
"""Between the scorers of an arm with several contexts, each of its share of the budget, whose ends are merged."""
ARMS = (
    NO_CONTEXT,
    "recency",
    "sinks+recency",
    "random",
    "attention",
    "bm25",
    "dense",
    "dense+bm25",
    "attention+bm25",
    "lensnet",
    "lensnet+bm25",
    "oracle",
)
DEPTH_BINS = 5
_CHUNK_TOKENS = 16_384
"""Tokens appended at a time, so that the ingest shows progress and leaves telemetry."""


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """A group of histories of one length."""

    name: str
    tokens: int = 0
    """Tokens of text in each, before facts go in; 0 = the whole book."""
    count: int = 1
    """How many, from stretches spread over the book."""
    facts: FactsConfig = field(default_factory=FactsConfig)

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.count < 1 or not self.name or "-" in self.name or "/" in self.name:
            raise ConfigError(
                "a history group needs a name without '-' and '/', tokens >= 0 and count >= 1, "
                f"got {self.name!r}, {self.tokens} and {self.count}"
            )


@dataclass(frozen=True, kw_only=True)
class FirstLightConfig:
    """What is asked of whom."""

    seed: int = 0
    model: str = "tiny"
    """A folder in data/, or the path of a folder, with a trained bundle."""
    book: str = "pride-and-prejudice"
    """A shipped book, or the path of a text file. It must not have been trained on."""
    arms: tuple[str, ...] = ARMS
    focus: FocusConfig = field(default_factory=FocusConfig)
    histories: tuple[HistoryConfig, ...] = (
        HistoryConfig(name="16k", tokens=16_384, count=9),
        HistoryConfig(name="book", facts=FactsConfig(keys=200)),
    )
    traced_questions: int = 6
    """Questions of each group's first history whose every focus step is recorded."""

    def __post_init__(self) -> None:
        for arm in self.arms:
            for scorer in arm.split(HEADS):
                if arm != NO_CONTEXT:
                    SCORERS.get(scorer)
        if not self.arms or not self.histories:
            raise ConfigError("an evaluation needs at least one arm and one group of histories; give them")
        for what, names in (("arm", self.arms), ("history group", [group.name for group in self.histories])):
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise ConfigError(
                    f"every {what} must be named once, {', '.join(twice)} is more often; drop one"
                )
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")


@dataclass(frozen=True)
class History:
    """A stretch of the book with its facts, not in a tree yet."""

    group: str
    name: str
    planted: PlantedHistory


@dataclass(frozen=True)
class Preparation:
    """All that an evaluation reads, loaded, planted and checked before anything is written."""

    config: FirstLightConfig
    bundle: Bundle
    book: Book
    histories: tuple[History, ...]


@dataclass(frozen=True)
class Case:
    """One history with its questions, ready to be asked."""

    group: str
    name: str
    planted: PlantedHistory
    session: Session

    def needed_blocks(self, question: Question) -> tuple[int, ...]:
        """Finished blocks that the statement that counts stands in."""
        memory = self.session.memory
        size = memory.block_size
        last = min((question.needed.stop - 1) // size, memory.num_blocks - 1)
        return tuple(range(question.needed.start // size, last + 1))

    def depth(self, question: Question) -> float:
        """Where the statement that counts stands: 0 = at the beginning, 1 = at the end."""
        return question.needed.start / max(1, len(self.planted.ids))


def prepare(config: FirstLightConfig) -> Preparation:
    """Load model and book, plant the facts, and check sizes and budget: what a run could fail by, before it begins.

    Raises CheckpointError for the model, ConfigError for the book, BudgetError for a budget that some question and
    the coarsest cover of its history do not fit.
    """
    bundle = Bundle.load(model_folder(config.model))
    book = load_book(config.book)
    ids = bundle.tokenizer.encode(book.text)
    size = bundle.config.block_size
    check_budget(config.focus.budget, size)
    histories: list[History] = []
    for group in config.histories:
        histories += _planted(group, config.seed, bundle.tokenizer, ids, book.title)
    for history in histories:
        prompts = [bundle.tokenizer.encode(question.prompt) for question in history.planted.questions]
        starting_context(len(history.planted.ids), size, config.focus.budget, max(map(len, prompts)))
    return Preparation(config, bundle, book, tuple(histories))


def _planted(
    group: HistoryConfig, seed: int, tokenizer: Tokenizer, ids: np.ndarray, title: str
) -> Iterator[History]:
    """The histories of a group, from stretches spread over the book."""
    wanted = group.tokens or len(ids)
    if len(ids) < wanted:
        raise ConfigError(
            f"the book must have {wanted:,} tokens for histories {group.name!r}, {title} has {len(ids):,}; "
            "give a longer book or lower histories.tokens"
        )
    starts = np.linspace(0, len(ids) - wanted, group.count).astype(int)
    for number, start in enumerate(starts.tolist()):
        rng = np.random.default_rng((seed, len(group.name), number))
        planted = plant(ids[start : start + wanted], tokenizer, group.facts, rng)
        yield History(group.name, f"{group.name}-{number}", planted)


def run_first_light(prepared: Preparation, run: RunFolder) -> dict[str, Any]:
    """Do the whole evaluation into `run` and return what results.json says."""
    config, bundle, book = prepared.config, prepared.bundle, prepared.book
    run.note(
        model_fingerprint=bundle.fingerprint(),
        book={"title": book.title, "licence": book.licence},
        budget_positions=config.focus.budget,
    )
    curves = model_folder(config.model) / "telemetry" / "train"
    if curves.is_dir():
        # How the weights were made belongs to the report of what they can do.
        shutil.copytree(curves, run.path / "telemetry" / "train")
    answers: list[dict[str, Any]] = []
    ingest: list[dict[str, Any]] = []
    for history in prepared.histories:
        session = _ingested(history, config, bundle, run, ingest)
        case = Case(history.group, history.name, history.planted, session)
        with session.memory:
            for arm in config.arms:
                answers += ask_all(case, arm, config, run)
    results = tables(config, answers, ingest, KVCache.bytes_per_position(bundle.config.model))
    run.results(results)
    return results


def _ingested(
    history: History,
    config: FirstLightConfig,
    bundle: Bundle,
    run: RunFolder,
    ingest: list[dict[str, Any]],
) -> Session:
    """A session over a new memory that holds the planted history."""
    name, planted = history.name, history.planted
    encoder = BundleEncoder(bundle)
    memory = Memory.create(run.path / "memory" / name, encoder.identity(), encoder)
    session = Session(bundle, memory, config.focus, seed=config.seed)
    began = time.perf_counter()
    with Progress(f"{name}: text into tree", len(planted.ids)) as progress:
        for at in range(0, len(planted.ids), _CHUNK_TOKENS):
            part = planted.ids[at : at + _CHUNK_TOKENS]
            session.observe(part)
            seconds = time.perf_counter() - began
            run.telemetry.emit(
                "ingest",
                history=name,
                wall_s=seconds,
                tokens_total=at + len(part),
                blocks_total=memory.num_blocks,
                tokens_per_s=(at + len(part)) / seconds,
                store_bytes=memory.store_bytes,
            )
            progress.advance(f"{(at + len(part)) / seconds:,.0f} tokens/s", len(part))
    ingest.append(
        {
            "history": name,
            "tokens": len(planted.ids),
            "wall_s": seconds,
            "tokens_per_s": len(planted.ids) / seconds,
            "store_bytes": memory.store_bytes,
            "bytes_per_token": memory.store_bytes / len(planted.ids),
            "flops": encoder.flops_per_token() * len(planted.ids),
        }
    )
    return session


def ask_all(case: Case, arm: str, config: FirstLightConfig, run: RunFolder) -> list[dict[str, Any]]:
    """Every question of a history to one arm: focus one by one, decode together."""
    tokenizer = case.session.bundle.tokenizer
    readings: list[list[Reading]] = []
    hits: list[bool] = []
    latencies: list[float] = []
    traced = config.traced_questions if case.name.endswith("-0") else 0
    with Progress(f"{case.name}: {arm}", len(case.planted.questions)) as progress:
        for number, question in enumerate(case.planted.questions):
            prompt = tokenizer.encode(question.prompt)
            needed = case.needed_blocks(question)
            if arm == NO_CONTEXT:
                readings.append([case.session.read(None, prompt)])
                hits.append(False)
                latencies.append(0.0)
            else:
                heads = arm.split(HEADS)
                focuses = [
                    case.session.focus(
                        prompt, scorer=scorer, number=number, needed_blocks=needed, heads=len(heads)
                    )
                    for scorer in heads
                ]
                readings.append([case.session.read(focus.context, prompt) for focus in focuses])
                hits.append(any(bool(focus.context.is_raw(np.array(needed)).all()) for focus in focuses))
                latencies.append(sum(focus.latency_ms for focus in focuses))
                _record_focus(focuses[0], case, arm, number, config, run, traced=number < traced)
            if arm == "lensnet" and number < traced:
                _record_block_scores(case, prompt, number, run)
            progress.advance()
        together = [reading for of_one in readings for reading in of_one]
        said = case.session.decode(together, heads=len(together) // max(1, len(readings)))
    rows = []
    for number, (question, of_one, answer) in enumerate(
        zip(case.planted.questions, readings, said, strict=True)
    ):
        row = {
            "history": case.name,
            "arm": arm,
            "question": number,
            "kind": "superseded" if question.superseded else "plain",
            "versions": len(question.statements),
            "depth": case.depth(question),
            "expected": question.answer.strip(),
            "answered": answer,
            "correct": answer == question.answer.strip(),
            "cost_positions": sum(reading.cost for reading in of_one),
            "hit": hits[number],
        }
        run.telemetry.emit(
            "answer", **row, budget_positions=config.focus.budget, latency_ms=latencies[number]
        )
        run.answer(row | {"prompt": question.prompt, "needed_blocks": list(case.needed_blocks(question))})
        rows.append(row | {"group": case.group, "history_tokens": len(case.planted.ids)})
    run.flush()
    return rows


def _record_focus(
    focus: Focus, case: Case, arm: str, number: int, config: FirstLightConfig, run: RunFolder, *, traced: bool
) -> None:
    """One `focus` row a step; for traced questions also one `entry` row for each entry of each step."""
    for at, step in enumerate(focus.steps):
        expanded = sum(edit.kind == "expand" for edit in step.edits)
        run.telemetry.emit(
            "focus",
            history=case.name,
            arm=arm,
            question=number,
            step=at,
            entries=len(step.context),
            cost_positions=step.context.cost,
            budget_positions=config.focus.budget,
            expanded=expanded,
            collapsed=len(step.edits) - expanded,
            refused=step.refused,
            score_max=float(step.scores.max(initial=-1.0)),
            latency_ms=step.latency_ms,
        )
        if traced:
            context, entries = step.context, len(step.context)
            edits = np.full(entries, "", dtype=object)
            for edit in step.edits:
                edits[edit.slot] = edit.kind
            run.telemetry.emit_frame(
                "entry",
                pl.DataFrame(
                    {
                        "history": [case.name] * entries,
                        "arm": [arm] * entries,
                        "question": np.full(entries, number),
                        "step": np.full(entries, at),
                        "slot": np.arange(entries),
                        "lod": context.lod,
                        "index": context.index,
                        "start": context.start,
                        "stop": context.stop,
                        "cost_positions": context.costs,
                        "score": step.scores,
                        "edit": edits.tolist(),
                    }
                ),
            )


def _record_block_scores(case: Case, prompt: np.ndarray, number: int, run: RunFolder) -> None:
    """How well every block's address matches the question."""
    matches = AddressIndex.of(case.session.memory).matches(case.session.encoder.encode_question(prompt))
    blocks = len(matches)
    run.telemetry.emit_frame(
        "block_score",
        pl.DataFrame(
            {
                "history": [case.name] * blocks,
                "question": np.full(blocks, number),
                "block": np.arange(blocks),
                "score": matches.astype(np.float64),
            }
        ),
    )


def tables(
    config: FirstLightConfig,
    answers: list[dict[str, Any]],
    ingest: list[dict[str, Any]],
    bytes_per_position: int,
) -> dict[str, Any]:
    """results.json: a row for each group and arm, accuracy by depth, ingest figures, and what they say in words."""
    frame = pl.DataFrame(answers)
    rows, depth = [], []
    for group in dict.fromkeys(frame["group"].to_list()):
        here = frame.filter(pl.col("group") == group)
        ceiling = here.filter(pl.col("arm") == "oracle")["correct"].mean()
        for arm in config.arms:
            mine = here.filter(pl.col("arm") == arm)
            right, tried = int(mine["correct"].sum()), mine.height
            low, high = wilson(right, tried)
            row = {
                "history": group,
                "history_tokens": int(mine["history_tokens"].mean()),
                "arm": arm,
                "n": tried,
                "correct": right,
                "accuracy": right / tried,
                "low": low,
                "high": high,
                "hit_rate": float(mine["hit"].mean()),
                "cost_positions_mean": float(mine["cost_positions"].mean()),
                "bytes_per_step": float(mine["cost_positions"].mean()) * bytes_per_position,
                "of_oracle": right / tried / ceiling if ceiling else None,
            }
            for kind in ("plain", "superseded"):
                of_kind = mine.filter(pl.col("kind") == kind)
                row[f"{kind}_n"] = of_kind.height
                row[f"{kind}_accuracy"] = float(of_kind["correct"].mean()) if of_kind.height else None
            rows.append(row)
            bins = (mine["depth"] * DEPTH_BINS).floor().clip(0, DEPTH_BINS - 1).cast(pl.Int64)
            for number in range(DEPTH_BINS):
                inside = mine.filter(bins == number)
                depth.append(
                    {
                        "history": group,
                        "arm": arm,
                        "depth_bin": number,
                        "depth_low": number / DEPTH_BINS,
                        "depth_high": (number + 1) / DEPTH_BINS,
                        "n": inside.height,
                        "accuracy": float(inside["correct"].mean()) if inside.height else None,
                    }
                )
    return {"rows": rows, "depth": depth, "ingest": ingest, "sentences": sentences(rows, config.focus.budget)}


def sentences(rows: list[dict[str, Any]], budget: int) -> list[str]:
    """The tables in words: what LensNet reached, beside its ceiling and its strongest opponent."""
    said = []
    for group in dict.fromkeys(row["history"] for row in rows):
        by_arm = {row["arm"]: row for row in rows if row["history"] == group}
        lens = by_arm.get("lensnet")
        if lens is None:
            continue
        sentence = (
            f"With {budget} positions over {lens['history_tokens']:,} tokens, LensNet answers {lens['accuracy']:.0%} "
            f"of {lens['n']} questions ({lens['low']:.0%} to {lens['high']:.0%})"
        )
        others = [
            f"{name} {by_arm[name]['accuracy']:.0%}"
            for name in ("oracle", "bm25", "recency")
            if name in by_arm
        ]
        said.append(sentence + (f"; {', '.join(others)}." if others else "."))
        bm25 = by_arm.get("bm25")
        if bm25 and lens["superseded_n"]:
            said.append(
                f"On facts that were superseded: LensNet {lens['superseded_accuracy']:.0%}, "
                f"BM25 {bm25['superseded_accuracy']:.0%} (n = {lens['superseded_n']})."
            )
    return said
