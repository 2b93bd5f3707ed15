"""From what somebody typed to sources, every one of them checked to be text before the first is used.

What was named must be text, or it is refused in a sentence. What only lies in a folder or matches a pattern is left
out instead, and reported. Deliberately knows nothing of how a text is read.
"""

from __future__ import annotations

import glob
import itertools
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from megacontext.errors import ConfigError
from megacontext.sources.files import shown, spooled, text_file
from megacontext.sources.patterns import split_pattern, walk
from megacontext.sources.refusal import Unusable, refusing, unreadable
from megacontext.sources.source import Skipped, Source
from megacontext.sources.tables import TextRows


@dataclass(frozen=True)
class Found:
    """The sources, in the order of what was asked for, and what was left out. Iterable as often as needed.

    A table stands for all its rows at a few bytes each: its sources are made as they are iterated.
    """

    parts: tuple[Sequence[Source], ...]
    skipped: tuple[Skipped, ...]

    def __iter__(self) -> Iterator[Source]:
        return itertools.chain.from_iterable(self.parts)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def size_bytes(self) -> int:
        """Of all sources together."""
        return sum(source.size_bytes or 0 for source in self)


def find_sources(specs: Sequence[str], *, stdin: BinaryIO | None = None, stdin_name: str = "stdin") -> Found:
    """The sources that `specs` name: files, folders, patterns (`*`, `?`, `[a-z]`, `**` for any depth), `-`.

    Folders are walked whole, in the order of names, and a folder that a pattern matches is too, as if the shell
    had expanded it. Inside, hidden files and folders and LEFT_OUT_FOLDERS are left out unless a pattern begins
    with their path; links to folders are not followed. `-` is `stdin` (or the standard input), copied to a
    temporary file that vanishes with its source. A file that is reached twice is taken once. Raises ConfigError
    for a file that is absent, empty, binary, no UTF-8 or a table without text, for a folder or pattern that
    holds no text, and for two sources of one name.
    """
    search = _Search()
    for spec in dict.fromkeys(specs):
        if not spec or "\0" in spec:
            raise ConfigError(
                f"a source must be named, and no name holds zero bytes, got {spec!r}; give a file, a folder, "
                "a pattern, or - for input"
            )
        if spec == "-":
            with refusing("source", stdin_name):
                search.parts.append((spooled(stdin or sys.stdin.buffer, stdin_name),))
        elif os.path.isdir(spec):
            search.inside(spec, Path(spec), ())
        elif glob.has_magic(spec) and not os.path.lexists(spec):
            search.inside(spec, *split_pattern(spec))
        else:
            with refusing("source", spec):
                search.take(Path(spec))
    found = Found(tuple(search.parts), tuple(search.skipped))
    _check_names(found)
    return found


class _Search:
    """What was found so far."""

    def __init__(self) -> None:
        self.parts: list[Sequence[Source]] = []
        self.skipped: dict[Skipped, None] = {}  # in order, each once
        self._taken: set[str] = set()

    def take(self, path: Path) -> None:
        """Add what one file holds, unless it was added before. Raises Unusable."""
        place = os.path.realpath(path)
        if place in self._taken:
            return
        part = _open_file(path)
        self._taken.add(place)
        if isinstance(part, TextRows):
            self.skipped.update(dict.fromkeys(part.skipped))
            self.parts.append(part)
        else:
            self.parts.append((part,))

    def inside(self, spec: str, folder: Path, pattern: tuple[str, ...]) -> None:
        """Take every text below `folder` that `pattern` reaches. Raises ConfigError if there is none."""
        texts, others = 0, []
        for path in walk(folder, pattern):
            try:
                self.take(path)
                texts += 1
            except Unusable as problem:
                others.append(Skipped(shown(path), problem.why))
        self.skipped.update(dict.fromkeys(others))
        if not texts:
            reason = f"; the first of {len(others):,} is {others[0].name}: {others[0].why}" if others else ""
            raise ConfigError(
                f"a {'pattern must match' if pattern else 'folder must hold'} text, {spec} has none"
                f"{reason}; check the path"
            )


def _open_file(path: Path) -> Source | TextRows:
    """The sources in one file, checked from end to end. Raises Unusable."""
    try:
        about = path.stat()
    except OSError as problem:
        raise unreadable(problem) from None
    if stat.S_ISDIR(about.st_mode):
        why = "a link to a folder" if path.is_symlink() else "a folder that cannot be read"
        raise Unusable(why, "be a file", "is " + why, "name the folder itself")
    if not stat.S_ISREG(about.st_mode):  # reading a pipe or a device might never end
        raise Unusable("no regular file", "be a regular file", "is none", "pipe it in and name it -")
    modified = datetime.fromtimestamp(about.st_mtime, tz=UTC)
    if path.suffix.lower() == ".parquet":
        return TextRows(shown(path), modified, path, about.st_size)
    return text_file(path, modified, about.st_size)


def _check_names(found: Found) -> None:
    """Of files and tables; the rows of a table are numbered."""
    seen: set[str] = set()
    for part in found.parts:
        if part[0].name in seen:
            raise ConfigError(
                f"sources must have different names, two are called {part[0].name!r}; rename one of them, "
                "or the standard input"
            )
        seen.add(part[0].name)
