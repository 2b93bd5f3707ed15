"""Which paths a pattern reaches: `*`, `?`, `[a-z]` within a name, `**` for any depth.

Deliberately opens no file; what cannot be listed is handed on like any other path.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

LEFT_OUT_FOLDERS = ("__pycache__", "node_modules")
"""Beside everything whose name begins with a dot."""


def split_pattern(spec: str) -> tuple[Path, tuple[str, ...]]:
    """The folder that a pattern begins with, and the parts of it that remain to be matched."""
    path = Path(spec)
    plain = tuple(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    return Path(*plain), path.parts[len(plain) :]


def walk(folder: Path, pattern: tuple[str, ...]) -> Iterator[Path]:
    """Everything below `folder` that `pattern` reaches and that is no folder to walk, in the order of names.

    The state beside a path is the set of places in `pattern` that its names have led to; len(pattern) is the end,
    where all that is below belongs to it. Without recursion, since folders may be deeper than Python's stack.
    """
    end = len(pattern)
    waiting = [(folder, True, _with_skips(pattern, {0}))]
    while waiting:
        path, is_folder, places = waiting.pop()
        if not is_folder:
            if end in places:
                yield path
            continue
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield path  # what is wrong with it is told as of any file
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in LEFT_OUT_FOLDERS:
                continue
            reached = _advance(pattern, places, entry.name)
            if reached:
                waiting.append((path / entry.name, entry.is_dir(follow_symlinks=False), reached))


def _advance(pattern: tuple[str, ...], places: set[int], name: str) -> set[int]:
    """Where one more name leads; nowhere if nothing below it can match."""
    reached = {place for place in places if place == len(pattern) or pattern[place] == "**"}
    reached |= {place + 1 for place in places if place < len(pattern) and fnmatchcase(name, pattern[place])}
    return _with_skips(pattern, reached)


def _with_skips(pattern: tuple[str, ...], places: set[int]) -> set[int]:
    """`**` also stands for no folder at all."""
    places = set(places)
    for place, part in enumerate(pattern):
        if part == "**" and place in places:
            places.add(place + 1)
    return places
