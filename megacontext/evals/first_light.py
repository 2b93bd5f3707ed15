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
from megacontext.corpus.shakespeare import NAME as SHAKESPEARE
from megacontext.corpus.shakespeare import load_shakespeare
from megacontext.errors import ConfigError
from megacontext.evals.arms import NO_CONTEXT, check_arms, check_names
from megacontext.evals.asking import ask_all
from megacontext.evals.histories import History, Stretch, check_room, stored
from megacontext.evals.statistics import wilson
from megacontext.focus.context import check_budget
from megacontext.models.gpt import KVCache
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.citing import tell
from megacontext.runtime.frozen.reader import FrozenReader, open_parts
from megacontext.runtime.frozen.vocabulary import FrozenVocabulary
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tasks.asked_facts import as_asked
from megacontext.tasks.facts import FactsConfig, PlantedHistory, plant
from megacontext.tasks.spoken import as_spoken
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
    """A folder in data/, or the path of a folder, with a trained bundle or a frozen decoder's reader."""
    levels: int | None = None
    """Highest level of gists that a frozen decoder reads; None: as its reader says."""
    book: str = "pride-and-prejudice"
    """A shipped book, `shakespeare` for all his works, or the path of a text file. It must not have been trained on."""
    arms: tuple[str, ...] = ARMS
    focus: FocusConfig = field(default_factory=FocusConfig)
    histories: tuple[HistoryConfig, ...] = (
        HistoryConfig(name="16k", tokens=16_384, count=9),
        HistoryConfig(name="book", facts=FactsConfig(keys=200)),
    )
    traced_questions: int = 6
    """Questions of each group's first history whose every focus step is recorded."""
    about_the_text: tuple[str, ...] = ()
    """Questions about the text itself, asked of the last history. Nobody judges the answers: they are told with what
    was read for them."""
    scorer: str = "lensnet"
    """Who chooses what is read for those."""

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
    bundle: Bundle | FrozenReader
    book: Book
    histories: tuple[History, ...]


def prepare(config: FirstLightConfig) -> Preparation:
    """Load model and book, plant the facts, and check sizes and budget: what a run could fail by, before it begins.

    Raises CheckpointError for the model, ConfigError for the book, BudgetError for a budget that some question and
    the coarsest cover of its history do not fit, BackendUnavailableError where an optional package is missing.
    """
    bundle = open_parts(config.model, config.levels)
    works = load_shakespeare() if config.book == SHAKESPEARE else [load_book(config.book)]
    text = _Text.of(works, bundle.tokenizer)
    book = works[0] if len(works) == 1 else Book("Shakespeare's works", works[0].licence, "")
    check_budget(config.focus.budget, bundle.config.block_size)
    histories: list[History] = []
    for group in config.histories:
        histories += _planted(group, config.seed, bundle, text, book.title)
    for history in histories:
        check_room(history, bundle, config.focus.budget)
    return Preparation(config, bundle, book, tuple(histories))


@dataclass(frozen=True)
class _Text:
    """Works one after another, as token ids."""

    ids: np.ndarray
    works: tuple[Stretch, ...]
    """Where each stands; empty where there is one."""

    @classmethod
    def of(cls, works: list[Book], tokenizer: Tokenizer | FrozenVocabulary) -> _Text:
        rows = []
        with Progress("text into tokens", len(works), quiet=len(works) == 1) as progress:
            for work in works:
                rows.append(tokenizer.encode(work.text))
                progress.advance(work.title)
        ends = np.cumsum([len(row) for row in rows]).tolist()
        stretches = [
            Stretch(work.title, end - len(row), end) for work, row, end in zip(works, rows, ends, strict=True)
        ]
        return cls(np.concatenate(rows), tuple(stretches) if len(works) > 1 else ())

    def works_within(self, start: int, stop: int, planted: PlantedHistory) -> tuple[Stretch, ...]:
        """Where the works stand in tokens [start, stop) with facts planted in them."""
        spans = sorted((one.start, one.stop) for question in planted.questions for one in question.statements)
        lengths = np.array([stop - start for start, stop in spans], dtype=np.int64)
        # Where each statement stood in the text, before any was there.
        places = np.array([start for start, _ in spans], dtype=np.int64) - (np.cumsum(lengths) - lengths)
        found, at = [], 0
        for work in self.works:
            end = min(work.stop, stop) - start
            if work.start >= stop or end <= 0:
                continue
            moved = end + int(lengths[places <= end].sum())
            found.append(Stretch(work.name, at, moved))
            at = moved
        return tuple(found)


def _planted(
    group: HistoryConfig, seed: int, bundle: Bundle | FrozenReader, text: _Text, title: str
) -> Iterator[History]:
    """The histories of a group, from stretches spread over the book."""
    ids = text.ids
    wanted = group.tokens or len(ids)
    if len(ids) < wanted:
        raise ConfigError(
            f"the book must have {wanted:,} tokens for histories {group.name!r}, {title} has {len(ids):,}; "
            "give a longer book or lower histories.tokens"
        )
    # A model of others was never trained to say a value and nothing else.
    as_task = as_spoken if isinstance(bundle, FrozenReader) else as_asked
    starts = np.linspace(0, len(ids) - wanted, group.count).astype(int)
    for number, start in enumerate(starts.tolist()):
        rng = np.random.default_rng((seed, len(group.name), number))
        planted = plant(ids[start : start + wanted], bundle.tokenizer, group.facts, rng)
        works = text.works_within(start, start + wanted, planted)
        yield History(group.name, f"{group.name}-{number}", as_task(planted), seed, works)


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
    told: list[dict[str, Any]] = []
    for history in prepared.histories:
        case, cost = stored(history, config.focus, bundle, run)
        ingest.append(cost)
        traced = config.traced_questions if history.name.endswith("-0") else 0
        with case.session.memory:
            for arm in config.arms:
                with Progress(f"{history.name}: {arm}", len(history.asked.questions)) as progress:
                    answers += ask_all(case, arm, run, traced=traced, told=progress.advance)
            if history is prepared.histories[-1]:
                told = _about_the_text(case.session, config)
    results = tables(config, answers, ingest, _bytes_per_position(bundle)) | {"about_the_text": told}
    run.results(results)
    return results


def _about_the_text(session: Session, config: FirstLightConfig) -> list[dict[str, Any]]:
    answers = []
    with Progress("questions about the text", len(config.about_the_text)) as progress:
        for question in config.about_the_text:
            answers.append(tell(session, question, config.scorer))
            progress.advance()
    return answers


def _bytes_per_position(bundle: Bundle | FrozenReader) -> int:
    if isinstance(bundle, FrozenReader):
        return bundle.bytes_per_position
    return KVCache.bytes_per_position(bundle.config.model)


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
            if "answer_s" in mine.columns:
                row["answer_s_median"], row["answer_s_max"] = (
                    mine["answer_s"].median(),
                    mine["answer_s"].max(),
                )
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
