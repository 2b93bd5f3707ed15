"""A memory that is looked at: opened for reading, followed while another process writes it, with what it cost to learn.

A memory is opened once in a process and shared by all pages, because LMDB wants it so. What takes longer than a page
may wait (access counts of every node, an index, a search) is done in the background and kept, a few results at a time,
so what a store holds does not grow with the hours. Files are looked at before they are read: LMDB maps them, and a map
of a file that was cut short is the end of the process.

Deliberately ignorant of plots and pages.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from megacontext.errors import ConfigError, CorruptRecordError, TreeFormatError
from megacontext.index import AddressIndex
from megacontext.tree import Memory
from megacontext.tree.data_file import CURRENT_FILE, current_data_file
from workbench.stores.background import Job
from workbench.stores.parts import Parts
from workbench.stores.vocabulary import Vocabulary, vocabulary_of

_KEPT = 24
"""Results of background work that are kept, the newest ones."""
_LONGEST_STEP_S = 30.0
"""Between two moments at which background work sees that it was given up, at the most."""

T = TypeVar("T")
State = tuple[int, int]
"""Length and revision of a history: whatever was computed of it holds as long as both are the same."""


class Asker(Protocol):
    """Gives a question an address among those of a memory's blocks."""

    tokenizer: Any

    def encode_question(self, ids: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Questioner:
    """Who can ask a memory, and which of its gist versions holds the addresses that answer."""

    asker: Asker
    version: int

    def address(self, question: str) -> np.ndarray:
        """Address (A,) of a question. Raises ConfigError for one without a token."""
        ids = np.asarray(self.asker.tokenizer.encode(question))
        if not len(ids):
            raise ConfigError("a question needs a word, got none; type one")
        return self.asker.encode_question(ids)


if TYPE_CHECKING:
    from megacontext.runtime.bundle import Bundle
    from megacontext.runtime.frozen.reader import FrozenReader


class MemoryStore:
    """One open memory. Raises what `Memory.open` raises, one sentence to be shown.

    `parts` are the models here, `model` the name of the one that is likely to have made it.
    """

    def __init__(self, path: str | Path, parts: Parts | None = None, model: str = ""):
        self.path = Path(path)
        self._parts, self._model = parts or Parts(), model
        self.stamp = stamp_of(self.path)
        self.memory = Memory.open(self.path)
        self._data_bytes = self.memory.store_bytes
        self._jobs: OrderedDict[tuple[Hashable, ...], Job[Any]] = OrderedDict()
        self._readings: dict[int, Memory] = {}
        self._turn = threading.RLock()
        self._running, self._closing = 0, False
        self.lock = threading.RLock()
        """Held by whoever writes, who asks an index, and who reads for long from another thread than the pages'."""
        self._seen: State = self.state

    def write_with(self, parts: Bundle | FrozenReader) -> None:
        """Open the memory again for writing, with the gists of `parts`. If that is refused, it stays open to read."""
        from megacontext.runtime.frozen.encoding import encoder_of

        encoder = encoder_of(parts)
        self._end_jobs()
        with self.lock:
            self.memory.close()
            try:
                self.memory = Memory.open(self.path, encoder.identity(), encoder, writable=True)
            except BaseException:
                self.memory = Memory.open(self.path)
                raise
            finally:
                self.stamp, self._data_bytes = stamp_of(self.path), max(bytes_of(self.path), 0)

    def close(self) -> None:
        """Let go of the file, as soon as nobody in the background reads it any more."""
        with self._turn:
            self._closing = True
            for job in self._jobs.values():
                job.abandon()
            if not self._running:
                self.memory.close()

    def check(self) -> None:
        """Hold the files against what they were. Raises TreeFormatError if they are gone, or are another memory's,
        CorruptRecordError if they were cut short."""
        if stamp_of(self.path) != self.stamp:
            raise TreeFormatError(
                f"a memory that is looked at must stay in its place, {self.path} was moved, removed or replaced; "
                "what is there now is opened again"
            )
        try:
            now = self.memory.store_bytes
        except OSError:
            raise TreeFormatError(
                f"a memory needs its data file, that of {self.path} is gone; put it back"
            ) from None
        if now < self._data_bytes:
            raise CorruptRecordError(
                f"the data file of a memory never gets smaller, that of {self.path} went from {self._data_bytes:,} to "
                f"{now:,} bytes; put it back from a copy, or run `megacontext memory repair`"
            )
        self._data_bytes = now

    def refresh(self) -> bool:
        """Whether the history has grown or changed since the last call."""
        state = self.state
        changed, self._seen = state != self._seen, state
        return changed

    # What it is.

    @property
    def state(self) -> State:
        """Length and revision, as of now."""
        return self.memory.num_tokens, self.memory.revision

    @property
    def num_tokens(self) -> int:
        """Length of the history as of now."""
        return self.memory.num_tokens

    @property
    def block_size(self) -> int:
        """K."""
        return self.memory.block_size

    def reading(self, version: int) -> Memory:
        """The memory, reading that gist version. Raises TreeFormatError where there is none of that number."""
        if version == self.memory.catalogue.active:
            return self.memory
        if version not in self._readings:
            self._readings[version] = self.memory.reading(version)
        return self._readings[version]

    # In the background.

    def job(self, key: tuple[Hashable, ...], work: Callable[[Job[T]], T]) -> Job[T]:
        """The work known under `key`, begun if it was not yet. Results are kept until newer ones push them out."""
        with self._turn:
            if key not in self._jobs:
                self._running += 1
                self._jobs[key] = Job(work, self._job_ended)
                while len(self._jobs) > _KEPT:
                    self._jobs.popitem(last=False)[1].abandon()
            self._jobs.move_to_end(key)
            return self._jobs[key]

    def latest(self, owner: Hashable, name: str, key: Hashable, work: Callable[[Job[T]], T]) -> Job[T]:
        """As `job`, but for one page (`owner`), which gives up whatever else it asked for under that name."""
        with self._turn:
            mine = (name, owner)
            for known in [known for known in self._jobs if known[:2] == mine and known[2] != key]:
                if not self._jobs[known].done:
                    self._jobs.pop(known).abandon()
            return self.job((*mine, key), work)

    def vocabulary(self) -> Job[Vocabulary]:
        """The vocabulary that the history was cut with. Fails with a sentence where no model here has it."""
        fingerprint = self.memory.catalogue.tokenizer

        def find(job: Job[Vocabulary]) -> Vocabulary:
            job.tell("looking for the vocabulary")
            return vocabulary_of(fingerprint, self._model)

        return self.job(("vocabulary", fingerprint), find)

    def questioner(self) -> Job[Questioner]:
        """The model that can ask this memory. Takes seconds; fails with a sentence where none fits."""
        catalogue = self.memory.catalogue

        def find(job: Job[Questioner]) -> Questioner:
            job.tell("loading the model that addressed the blocks")
            # torch takes seconds to import, and most pages never ask.
            from megacontext.runtime.frozen.encoding import encoder_of

            asker = encoder_of(self._parts.for_memory(self.memory, [self._model]))
            version = catalogue.find(asker.identity())
            if version is None:
                raise ConfigError(
                    f"a question is addressed by the model that addressed the blocks, the one that fits {self.path} "
                    "made none of its addresses; colour by the words of the query instead"
                )
            return Questioner(asker, version.number)

        return self.job(("questioner", tuple(version.encoder for version in catalogue.versions)), find)

    def addresses(self, version: int) -> AddressIndex:
        """The addresses of all blocks, up to date. Only for whoever holds `lock`; the first time takes seconds.

        Raises StaleGistError where the version does not cover the history.
        """
        return AddressIndex.of(self.reading(version))

    def _end_jobs(self) -> None:
        """Give up all that is done in the background, and wait until nobody there reads the memory any more."""
        with self._turn:
            jobs = list(self._jobs.values())
            self._jobs.clear()
            self._readings.clear()
        for job in jobs:
            job.abandon()
        for job in jobs:
            job.wait(_LONGEST_STEP_S)

    def _job_ended(self) -> None:
        with self._turn:
            self._running -= 1
            if self._closing and not self._running:
                self.memory.close()


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Tells one memory, or one compaction of it, from the next in the same place; zeros where there is none."""
    try:
        folder, current = os.stat(path), os.stat(path / CURRENT_FILE)
    except OSError:
        return (0, 0, 0)
    return folder.st_ino, current.st_ino, current.st_mtime_ns


def bytes_of(path: Path) -> int:
    """Size of the data file, -1 where there is none."""
    try:
        return current_data_file(path).stat().st_size
    except (OSError, TreeFormatError):
        return -1
