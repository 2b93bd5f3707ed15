"""An index that follows a history: segments over all finished blocks, made once and merged as the history grows.

How n blocks are cut depends on n alone: aligned runs of 65,536 blocks, then of 16,384, 4,096 and so on down to 1, each
as many as fit, at most three of a size below the largest. So growing by one block adds one run, now and then merges
four of a size, and a block is copied eight times in all; a history that was appended piece by piece has the very index
of one that was appended at once (log-structured merging, O'Neil et al. 1996). Runs of 1,024 blocks and more lie in
mapped files, smaller ones in RAM: what an index keeps there does not grow with the history.

Files stand for one state of the memory: their key holds its parts, its gist version and its revision, and a checksum of
each file's last block is held against the history when it is taken. Whatever does not fit is made again. The memory's
writer keeps its files in the folder `derived`; a reader takes those that fit, and puts what they lack into temporary
files of its own, which end with it.

Deliberately ignorant of what the arrays mean: subclasses make and merge them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from megacontext.index.segments import SUFFIX, Arrays, Segment, read_segment, write_segment
from megacontext.tree.derived import DERIVED_FOLDER
from megacontext.tree.memory import Memory

RADIX = 4
LEAST_IN_FILE = 1024
"""Blocks: smaller runs stay in RAM."""
MOST = 65_536
"""Blocks of the longest run, so that two bytes name a block within it."""


def cut(num_blocks: int, most: int = MOST) -> list[tuple[int, int]]:
    """The runs [first, stop) that a history of `num_blocks` is cut into, in order.

    >>> cut(22)
    [(0, 16), (16, 20), (20, 21), (21, 22)]
    """
    runs, first, size = [], 0, most
    while first < num_blocks:
        while first + size > num_blocks:
            size //= RADIX
        runs.append((first, first + size))
        first += size
    return runs


class FollowingIndex(ABC):
    """Segments over the finished blocks of `memory`, in order and without a gap once `follow` has run.

    `kind` names its files; `made_with` is what its content depends on beside the memory.
    """

    def __init__(
        self,
        memory: Memory,
        kind: str,
        made_with: str = "",
        *,
        least_in_file: int = LEAST_IN_FILE,
        most: int = MOST,
    ):
        self._memory, self._kind, self._made_with = memory, kind, made_with
        self._least_in_file, self._most = least_in_file, most
        self._key = ""
        self.segments: tuple[Segment, ...] = ()
        """In the order of their blocks; another tuple whenever they have changed."""

    @abstractmethod
    def make(self, first: int, stop: int) -> Arrays:
        """Arrays about blocks [first, stop), read from the memory: `least_in_file` blocks at most."""

    @abstractmethod
    def merge(self, parts: list[Segment]) -> Arrays:
        """Arrays about the blocks of consecutive segments, exactly as `make` would give them."""

    @property
    def num_blocks(self) -> int:
        """How many blocks of the history are in it, from the first on."""
        return self.segments[-1].stop if self.segments else 0

    def close(self) -> None:
        """Let go of every segment. The next `follow` finds or makes them again."""
        self._key, self.segments = "", ()

    def follow(self) -> None:
        """Take in the history as it is. Raises StaleGistError as reading it does, StorageError if the disk refuses.

        If something that was there has changed, or another process changes it meanwhile, the index is made anew.
        """
        while True:
            key, num_blocks = self._state_key(), self._memory.num_blocks
            if key == self._key and num_blocks == self.num_blocks:
                return
            if key != self._key or num_blocks < self.num_blocks:
                self.close()
            self._cover(key, num_blocks)
            if self._state_key() == key:
                self._key = key
                return
            self.close()

    def _cover(self, key: str, num_blocks: int) -> None:
        held = {(one.first, one.stop): one for one in self.segments} or self._on_disk(key)
        self.segments = tuple(self._segment(run, held, key) for run in cut(num_blocks, self._most))
        self._remove_others()

    def _segment(self, run: tuple[int, int], held: dict[tuple[int, int], Segment], key: str) -> Segment:
        """The segment over `run`, from what is `held` as far as that goes."""
        if run in held:
            return held[run]
        first, stop = run
        size = (stop - first) // RADIX
        if stop - first > self._least_in_file:
            parts = [self._segment((at, at + size), held, key) for at in range(first, stop, size)]
        else:
            parts = [segment for (a, b), segment in held.items() if first <= a and b <= stop]
            reached = parts[-1].stop if parts else first
            if reached < stop:
                parts.append(Segment(reached, stop, self.make(reached, stop)))
        made = Segment(first, stop, parts[0].arrays if len(parts) == 1 else self.merge(parts))
        if stop - first < self._least_in_file:
            return made
        return write_segment(made, self._own_folder, self._name(run), key, self._witness(stop))

    # Where files are.

    @property
    def _own_folder(self) -> Path | None:
        """Where files are written; None for temporary ones."""
        folder = self._memory.folder
        return folder / DERIVED_FOLDER if folder is not None and self._memory.writable else None

    def _name(self, run: tuple[int, int]) -> str:
        return f"{self._kind}-{run[0]}-{run[1]}"

    def _on_disk(self, key: str) -> dict[tuple[int, int], Segment]:
        """Segments from files that are whole and of this history as it is, the first ones without a gap."""
        folder = self._memory.folder
        if folder is None or not (folder / DERIVED_FOLDER).is_dir():
            return {}
        held: dict[tuple[int, int], Segment] = {}
        reached, num_blocks, size = 0, self._memory.num_blocks, self._most
        while size >= self._least_in_file:
            run = reached, reached + size
            found = read_segment(folder / DERIVED_FOLDER / (self._name(run) + SUFFIX), key)
            if found is not None and run[1] <= num_blocks and self._is_ours(*found, run):
                held[run], reached = found[0], run[1]
            else:
                size //= RADIX
        return held

    def _is_ours(self, segment: Segment, witness: int, run: tuple[int, int]) -> bool:
        """Whether a whole file is about `run` of this history, and not of another of the same key."""
        return (segment.first, segment.stop) == run and witness == self._witness(segment.stop)

    def _remove_others(self) -> None:
        """Of our kind, the writer removes files that no segment lies in: merged, out of date, or damaged."""
        folder = self._own_folder
        if folder is None or not folder.is_dir():
            return
        kept = {segment.file for segment in self.segments}
        for file in folder.glob(f"{self._kind}-*"):
            if file not in kept:
                file.unlink(missing_ok=True)

    # What they depend on.

    def _state_key(self) -> str:
        """Names the state of the memory that segments stand for, its length apart."""
        memory = self._memory
        version = memory.version
        told = [
            memory.catalogue.tokenizer, version.number, version.embedding, version.encoder, version.left_tokens,
            version.address_width, memory.block_size, memory.revision, self._kind, self._made_with,
        ]  # fmt: skip
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    def _witness(self, stop: int) -> int:
        """Checksum of the block before `stop`: tells another history of the same length and revision."""
        return zlib.crc32(np.ascontiguousarray(self._memory.blocks([stop - 1]), dtype="<i4"))
