"""A report that would come out the same is left as it stands: a second export takes no time.

A page says in its head what it was made from: a digest of its notebook, of all code and data behind it, of the versions
of what is installed and of its arguments, and one of the mark of each run that it shows. While all of these are so
still, to make it again would say the same. A page of runs that somebody gave is always made again, for they may have
grown; so is one that was asked for anew.
"""

from __future__ import annotations

import functools
import hashlib
import html
import importlib.metadata
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.keeping import MARK, KeptRun, code_digest

_HEAD_CHARACTERS = 20_000
_MADE_FROM = re.compile(r'<meta name="made-from" content="([^"]*)">')


@dataclass(frozen=True)
class Told:
    """What a notebook said beside its page."""

    title: str
    question: str
    said: str
    runs: tuple[str, ...]


def made_from(
    notebook: Path, page: Path, arguments: Sequence[str], told: Told, runs: Sequence[KeptRun]
) -> str:
    """What the head of a page says of its origin, as JSON; empty for a page that is never to be kept."""
    marks = {str(run.path): _mark_digest(run.path) for run in runs}
    if "--anew" in arguments or None in marks.values():
        return ""
    return json.dumps({
        "digest": _digest(notebook, page, arguments), "marks": marks, "title": told.title, "question": told.question,
        "said": told.said,
    })  # fmt: skip


def standing(notebook: Path, page: Path, arguments: Sequence[str]) -> Told | None:
    """What was told with a page that would come out the same; None for one that has to be made."""
    try:
        with page.open(encoding="utf-8") as stream:
            found = _MADE_FROM.search(stream.read(_HEAD_CHARACTERS))
        origin = json.loads(html.unescape(found[1])) if found else {}
        if origin.get("digest") != _digest(notebook, page, arguments) or "--anew" in arguments:
            return None
        marks = origin["marks"]
        if any(_mark_digest(Path(path)) != mark for path, mark in marks.items()):
            return None
        return Told(str(origin["title"]), str(origin["question"]), str(origin["said"]), tuple(marks))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None  # a page that cannot be read is made again


def _digest(notebook: Path, page: Path, arguments: Sequence[str]) -> str:
    """16 hex digits. Links in a page lead from where it is to the vault, so its folder counts too."""
    parts = [code_digest(notebook), _around(), str(page.resolve().parent), json.dumps(list(arguments))]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


@functools.cache
def _around() -> str:
    """Of what draws a page, and of all that is installed."""
    digest = hashlib.blake2b(digest_size=8)
    folder = Path(__file__).parent
    for path in sorted(one for one in folder.rglob("*") if one.suffix in (".py", ".j2", ".js", ".svg")):
        digest.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    # A set: what is found in two places of the path counts once, and a command has another path than a module.
    versions = sorted({f"{one.name}=={one.version}" for one in importlib.metadata.distributions()})
    digest.update(f"{sys.version}\0{versions}".encode())
    return digest.hexdigest()


def _mark_digest(run: Path) -> str | None:
    """None for a run that no notebook has finished."""
    try:
        return hashlib.blake2b((run / MARK).read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return None
