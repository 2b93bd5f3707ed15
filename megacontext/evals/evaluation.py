"""One suite, put to several arms over several seeds: what is asked, what is checked before anything is written, and how
it is run.

Every arm reads the same histories with the same weights at the same budget (`evals.arms`). The text between what is
planted is the held-out novel; where a history is longer than that, the other shipped novels follow it. Those were
trained on, the planted names never.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from megacontext.corpus.book import load_book, shipped_books
from megacontext.errors import ConfigError
from megacontext.evals.arms import check_arms, check_names
from megacontext.evals.asking import Aloud, ask_all
from megacontext.evals.grids import results_of
from megacontext.evals.histories import Case, History, check_room, stored
from megacontext.evals.suites import SUITES, Cell
from megacontext.focus.context import check_budget
from megacontext.models.gpt import KVCache
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig
from megacontext.tasks.asked import Background


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is asked of whom."""

    suite: str
    """One of SUITES."""
    model: str = "tiny"
    """A folder in data/, or the path of a folder, with a trained bundle."""
    book: str = "pride-and-prejudice"
    """A shipped book, or the path of a text file. It must not have been trained on."""
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] | None = None
    """None: the suite's."""
    n: int = 60
    """Questions of a cell, over all seeds together, at least. A claim needs 200."""
    lengths: tuple[int, ...] | None = None
    """Tokens of text of the histories; None: the suite's."""
    variants: tuple[int, ...] | None = None
    """Pairs of mqar, hops of variables, kinds of babi, the highest count of counting; None: the suite's."""
    focus: FocusConfig = field(default_factory=FocusConfig)
    traced_questions: int = 2
    """Questions of each cell's first history whose every focus step is recorded."""
    aloud: Aloud = "no"
    """Whether the model says steps before its answer, and whether each is followed by another look (`evals.asking`)."""
    keep_memories: bool = False
    """Leave the memories in the run's folder; else each goes when its questions are answered."""

    def __post_init__(self) -> None:
        suite = SUITES.get(self.suite)
        for name in ("arms", "lengths", "variants"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(suite, name))
        check_arms(self.arms)
        if not self.arms or not self.seeds:
            raise ConfigError("an evaluation needs at least one arm and one seed; give them")
        for what in ("seeds", "lengths", "variants"):
            check_names(what.removesuffix("s"), map(str, getattr(self, what)))
        if min(self.seeds) < 0:
            raise ConfigError(f"seeds must not be negative, got {min(self.seeds)}; 0 is the usual one")
        if self.n < 1:
            raise ConfigError(f"n must be at least 1 question a cell, got {self.n}; a claim needs 200")
        self.cells()

    def cells(self) -> list[Cell]:
        """The cells of the suite at these sizes."""
        return SUITES.get(self.suite).cells(self.lengths, self.variants)

    def histories_a_seed(self, cell: Cell) -> int:
        """Enough for n questions over all seeds."""
        return -(-self.n // (len(self.seeds) * cell.task.asks))


@dataclass(frozen=True)
class Prepared:
    """All that an evaluation reads, loaded, planted and checked before anything is written."""

    config: EvalConfig
    bundle: Bundle
    text: str
    """What the background is."""
    histories: dict[str, list[History]]
    """Of each cell, by its name."""


def prepare(config: EvalConfig) -> Prepared:
    """Load model and text, plant the tasks, and check sizes and budget: what a run could fail by, before it begins.

    Raises CheckpointError for the model, ConfigError for the text, BudgetError for a budget that some question and
    the coarsest cover of its history do not fit.
    """
    bundle = Bundle.load(model_folder(config.model))
    check_budget(config.focus.budget, bundle.config.block_size)
    cells = config.cells()
    title, text = _background(config, bundle, max(cell.tokens for cell in cells))
    histories: dict[str, list[History]] = {}
    with Progress("planting", len(cells)) as progress:
        for cell in cells:
            histories[cell.name] = list(_planted(cell, config, bundle, text))
            for history in histories[cell.name]:
                check_room(history, bundle, config.focus.budget, aloud=config.aloud == "again")
            progress.advance(cell.name)
    return Prepared(config, bundle, title, histories)


def _background(config: EvalConfig, bundle: Bundle, wanted: int) -> tuple[str, Background]:
    """The book, with the other shipped ones behind it as far as they are needed."""
    book = load_book(config.book)
    titles, ids = [book.title], bundle.tokenizer.encode(book.text)
    shipped = shipped_books()
    others = [name for name in shipped if name != config.book] if config.book in shipped else []
    while len(ids) < wanted and others:
        more = load_book(others.pop(0))
        titles.append(more.title)
        ids = np.concatenate([ids, bundle.tokenizer.encode("\n\n" + more.text)])
    if len(ids) < wanted:
        raise ConfigError(
            f"the text must have {wanted:,} tokens for the longest history, {', '.join(titles)} has {len(ids):,}; "
            "lower --lengths or give a longer book"
        )
    return ", ".join(titles), Background.of(ids, bundle.tokenizer)


def _planted(cell: Cell, config: EvalConfig, bundle: Bundle, text: Background) -> Iterator[History]:
    """The histories of a cell, seed by seed, in stretches of the text drawn with what is planted in them."""
    named = int.from_bytes(hashlib.blake2b(cell.name.encode(), digest_size=4).digest(), "little")
    each = config.histories_a_seed(cell)
    for place, seed in enumerate(config.seeds):
        for number in range(each):
            rng = np.random.default_rng((seed, named, number))
            start = int(rng.integers(len(text.ids) - cell.tokens + 1))
            asked = cell.task.plant(text.stretch(start, cell.tokens), bundle.tokenizer, rng)
            yield History(cell.name, f"{cell.name}-{place * each + number}", asked, seed)


def note(prepared: Prepared, run: RunFolder) -> None:
    """Say in run.json what is read by whom."""
    run.note(
        model_fingerprint=prepared.bundle.fingerprint(),
        book={"title": prepared.text, "licence": "see data/README.md, or given by the user"},
        budget_positions=prepared.config.focus.budget,
    )


@contextmanager
def opened(
    prepared: Prepared, history: History, run: RunFolder, ingest: list[dict[str, Any]]
) -> Iterator[Case]:
    """A history in a tree while it is looked at; `ingest` gets a row."""
    case, cost = stored(history, prepared.config.focus, prepared.bundle, run, quiet=True)
    ingest.append(cost | {"group": history.group})
    try:
        with case.session.memory:
            yield case
    finally:
        if not prepared.config.keep_memories:
            shutil.rmtree(run.path / "memory")


def run_suite(prepared: Prepared, run: RunFolder) -> dict[str, Any]:
    """Do the whole evaluation into `run` and return what results.json says."""
    config = prepared.config
    note(prepared, run)
    answers: list[dict[str, Any]] = []
    ingest: list[dict[str, Any]] = []
    for cell in config.cells():
        histories = prepared.histories[cell.name]
        asked = sum(len(history.asked.questions) for history in histories)
        with Progress(f"{config.suite} {cell.name}", asked * len(config.arms)) as progress:
            for history in histories:
                about = {"cell": cell.name, "seed": history.seed}
                traced = config.traced_questions if history is histories[0] else 0
                with opened(prepared, history, run, ingest) as case:
                    for arm in config.arms:
                        told = partial(progress.advance, f"{history.name} {arm}")
                        rows = ask_all(
                            case, arm, run, traced=traced, aloud=config.aloud, about=about, told=told
                        )
                        answers += [row | about for row in rows]
    write_frame(run, "samples", pl.DataFrame(answers))
    results = results_of(config, answers, ingest, KVCache.bytes_per_position(prepared.bundle.config.model))
    run.results(results)
    return results


def write_frame(run: RunFolder, name: str, frame: pl.DataFrame) -> None:
    """`name`.parquet in the run's folder, whole or not at all."""
    aside = run.path / f".{name}.parquet.tmp"
    frame.write_parquet(aside)
    aside.replace(run.path / f"{name}.parquet")
