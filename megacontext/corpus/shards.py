"""Where training text comes from: parquet shards as nanochat has them, or whole books.

A shard is a file's worth of documents that is tokenised as one. In a folder of parquet files each file is a shard, in
the order of names, and the last one is for validation (nanochat's rule); of books, all that are trained on make one
shard and all that are held out another. Split by document, never within one.

Deliberately knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from megacontext.corpus.book import load_book
from megacontext.errors import ConfigError
from megacontext.sources import TEXT_COLUMN


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """A folder of parquet shards, or books: one of the two."""

    shards: str = ""
    """Folder of parquet files with a column `text`; the last by name is for validation."""
    books: tuple[str, ...] = ()
    """What is trained on: shipped books, or paths of text files."""
    held_out: tuple[str, ...] = ()
    """Books that are measured on and never trained on."""

    def __post_init__(self) -> None:
        if bool(self.shards) == bool(self.books):
            raise ConfigError(
                "a corpus is a folder of parquet shards or a list of books, got "
                f"shards = {self.shards!r} and {len(self.books)} books; give one of the two"
            )
        if self.books and not self.held_out:
            raise ConfigError(
                "a corpus of books needs books to measure on; name at least one in corpus.held_out"
            )
        if both := sorted({*self.books} & {*self.held_out}):
            raise ConfigError(
                f"a held-out book must not be trained on, {both[0]!r} is both; remove it from one"
            )


@dataclass(frozen=True)
class Shard:
    """Documents that are tokenised as one."""

    name: str
    fingerprint: str
    """Changes whenever the documents may have."""
    documents: Callable[[], Iterator[str]]
    """Reads the documents, in order. Raises ConfigError if they are gone or damaged."""


@dataclass(frozen=True)
class Corpus:
    """What is trained on, and what is measured on."""

    train: tuple[Shard, ...]
    validation: Shard


def open_corpus(config: CorpusConfig) -> Corpus:
    """The corpus that `config` names. Raises ConfigError if it is missing or too small to be split."""
    if config.books:
        return Corpus((_books("books", config.books),), _books("held-out", config.held_out))
    folder = Path(config.shards).expanduser()
    # nanochat downloads to a name that ends in .tmp, so those are not complete.
    files = sorted(folder.glob("*.parquet"))
    if len(files) < 2:
        raise ConfigError(
            f"a folder of shards needs at least two .parquet files, the last one for validation, {folder} has "
            f"{len(files)}; check the path or add files"
        )
    *train, last = [_parquet(file) for file in files]
    return Corpus(tuple(train), last)


def _books(name: str, titles: tuple[str, ...]) -> Shard:
    texts = [load_book(title).text for title in titles]
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(hashlib.blake2b(text.encode()).digest())
    return Shard(name, digest.hexdigest(), lambda: iter(texts))


def _parquet(file: Path) -> Shard:
    about = file.stat()
    told = f"{file.name} {about.st_size} {about.st_mtime_ns}"
    return Shard(file.stem, hashlib.blake2b(told.encode(), digest_size=8).hexdigest(), partial(_rows, file))


def _rows(file: Path) -> Iterator[str]:
    try:
        texts = pl.read_parquet(file, columns=[TEXT_COLUMN], glob=False).get_column(TEXT_COLUMN)
        if texts.dtype != pl.String:
            raise ConfigError(
                f"a shard's column {TEXT_COLUMN!r} must hold strings, that of {file} holds {texts.dtype}; convert it"
            )
    except (pl.exceptions.PolarsError, OSError) as problem:
        why = (str(problem).splitlines() or ["no reason given"])[0][:160]
        raise ConfigError(
            f"a shard must be a parquet file with a column {TEXT_COLUMN!r}, {file} is not ({why}); write it again"
        ) from None
    return (text for text in texts if text)
