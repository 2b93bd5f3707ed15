"""First light: facts planted in a book, asked for when their blocks left the window long ago.

Every arm reads the same histories with the same weights at the same budget (`evals.arms`). Answers count by exact match
of the whole line. Intervals are Wilson's at 95 %.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from megacontext.corpus.book import Book, load_book
from megacontext.errors import ConfigError
from megacontext.evals.arms import NO_CONTEXT, check_arms, check_names
from megacontext.evals.asking import ask_all
from megacontext.evals.histories import History, check_room, stored
from megacontext.evals.statistics import wilson
from megacontext.focus.context import check_budget
from megacontext.models.gpt import KVCache
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig
from megacontext.tasks.asked_facts import as_asked
from megacontext.tasks.facts import FactsConfig, plant
from megacontext.tokenizer import Tokenizer

ARMS = (
    NO_CONTEXT,
    "recency",
    "sinks+recency",
    "random",
    "attention",
    "bm25",
    "dense",
    "dense+bm25",
    "infllm-style",
    "attention+bm25",
    "lensnet",
    "lensnet+bm25",
    "oracle",
)
DEPTH_BINS = 5


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
        check_arms(self.arms)
        if not self.arms or not self.histories:
            raise ConfigError("an evaluation needs at least one arm and one group of histories; give them")
        check_names("history group", [group.name for group in self.histories])
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")


@dataclass(frozen=True)
class Preparation:
    """All that an evaluation reads, loaded, planted and checked before anything is written."""

    config: FirstLightConfig
    bundle: Bundle
    book: Book
    histories: tuple[History, ...]


def prepare(config: FirstLightConfig) -> Preparation:
    """Load model and book, plant the facts, and check sizes and budget: what a run could fail by, before it begins.

    Raises CheckpointError for the model, ConfigError for the book, BudgetError for a budget that some question and
    the coarsest cover of its history do not fit.
    """
    bundle = Bundle.load(model_folder(config.model))
    book = load_book(config.book)
    ids = bundle.tokenizer.encode(book.text)
    check_budget(config.focus.budget, bundle.config.block_size)
    histories: list[History] = []
    for group in config.histories:
        histories += _planted(group, config.seed, bundle.tokenizer, ids, book.title)
    for history in histories:
        check_room(history, bundle, config.focus.budget)
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
        yield History(group.name, f"{group.name}-{number}", as_asked(planted), seed)


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
        case, cost = stored(history, config.focus, bundle, run)
        ingest.append(cost)
        traced = config.traced_questions if history.name.endswith("-0") else 0
        with case.session.memory:
            for arm in config.arms:
                with Progress(f"{history.name}: {arm}", len(history.asked.questions)) as progress:
                    answers += ask_all(case, arm, run, traced=traced, told=progress.advance)
    results = tables(config, answers, ingest, KVCache.bytes_per_position(bundle.config.model))
    run.results(results)
    return results


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
