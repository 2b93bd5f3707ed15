"""The order in which training reads rows of tokens: the same for every number of processes, and resumable.

A shard of N tokens is cut into rows of T + 1 (T to read, each with its successor as target), neighbours sharing one
token; what is left at the end is skipped. In every epoch the cuts begin at another place and the rows of a shard
come in another order, both drawn from seed, epoch and shard alone. A step's rows are consecutive in that order, and
each process takes its share of them; so where a run stands is three numbers.

nanochat gives each process its own row groups, which makes the order depend on how many there are; here two processes
read what one would have read (obsidian/architecture/Base models.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megacontext.corpus.shards import Shard
from megacontext.corpus.token_files import token_file
from megacontext.errors import ConfigError
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Place:
    """The next row to be read."""

    epoch: int = 0
    shard: int = 0
    row: int = 0
    """How many rows of the shard's order are behind."""


class RowReader:
    """Rows of T + 1 tokens of some shards, endlessly, from a place on."""

    def __init__(
        self,
        shards: Sequence[Shard],
        tokenizer: Tokenizer,
        cache: Path,
        *,
        row_tokens: int,
        seed: int,
        place: Place | None = None,
    ):
        self.place = place or Place()
        self._shards, self._tokenizer, self._cache = shards, tokenizer, cache
        self._row_tokens, self._seed = row_tokens, seed
        if not 0 <= self.place.shard < len(shards):
            raise ConfigError(
                f"a place must name one of the corpus's {len(shards)} shards, got shard {self.place.shard}; "
                "resume with the corpus that the run began with"
            )
        self._open_shard()

    def read(self, count: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """The next `count * world` rows are read by all processes; this gives those of `rank`: int64 (count, T + 1)."""
        wanted = range(rank * count, (rank + 1) * count)
        rows = np.empty((count, self._row_tokens + 1), dtype=np.int64)
        for number, (tokens, start) in enumerate(self._advance(count * world)):
            if number in wanted:
                rows[number - wanted.start] = tokens[start : start + self._row_tokens + 1]
        return rows

    def _advance(self, count: int) -> Iterator[tuple[np.ndarray, int]]:
        """Tokens of the shard and the beginning of each of the next `count` rows; moves the place."""
        for _ in range(count):
            while self.place.row >= len(self._order):
                self._next_shard()
            yield self._tokens, self._offset + self._row_tokens * int(self._order[self.place.row])
            self.place = Place(epoch=self.place.epoch, shard=self.place.shard, row=self.place.row + 1)

    def _next_shard(self) -> None:
        shard = (self.place.shard + 1) % len(self._shards)
        self.place = Place(epoch=self.place.epoch + (shard == 0), shard=shard)
        self._open_shard()

    def _open_shard(self) -> None:
        shard = self._shards[self.place.shard]
        self._tokens = token_file(shard, self._tokenizer, self._cache)
        rng = np.random.default_rng((self._seed, self.place.epoch, self.place.shard))
        spare = len(self._tokens) - 1 - self._row_tokens
        if spare < 0:
            raise ConfigError(
                f"a shard must hold a row of {self._row_tokens + 1:,} tokens, {shard.name} has "
                f"{len(self._tokens):,}; give more text or lower model.sequence_len"
            )
        self._offset = int(rng.integers(min(self._row_tokens, spare + 1)))
        self._order = rng.permutation((len(self._tokens) - 1 - self._offset) // self._row_tokens)


def validation_rows(
    shard: Shard, tokenizer: Tokenizer, cache: Path, *, row_tokens: int, most_tokens: int
) -> np.ndarray:
    """The first rows of a shard in plain order, int64 (n, T + 1): as many as `most_tokens` targets fill, at least one.

    Raises ConfigError if the shard has not even one.
    """
    tokens = token_file(shard, tokenizer, cache)
    rows = min(max(1, most_tokens // row_tokens), (len(tokens) - 1) // row_tokens)
    if rows < 1:
        raise ConfigError(
            f"validation needs a row of {row_tokens + 1:,} tokens, {shard.name} has {len(tokens):,}; give more text"
        )
    starts = np.arange(rows) * row_tokens
    return tokens[starts[:, None] + np.arange(row_tokens + 1)].astype(np.int64)
