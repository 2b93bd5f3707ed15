"""Whole documents as token ids, and segments cut from them: no segment holds tokens of two documents.

A name is a shipped book, the path of a text file, or `stdlib`: the modules of the running Python's own library, which
are at hand wherever this runs; they are split by their names, the same everywhere, into those to train on and those
held out.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megacontext.corpus.book import load_book
from megacontext.errors import ConfigError

STDLIB, STDLIB_HELD_OUT = "stdlib", "stdlib-held-out"
_HELD_OUT_OF = 4
"""One module of so many is held out."""


@dataclass(frozen=True)
class Document:
    """A text as token ids."""

    name: str
    ids: np.ndarray
    """int32 (n,)."""


def load_documents(names: Sequence[str], encode: Callable[[str], Sequence[int]]) -> list[Document]:
    """The documents that `names` stand for, in that order. Raises ConfigError, UnknownVariantError."""
    texts: list[tuple[str, str]] = []
    for name in names:
        if name in (STDLIB, STDLIB_HELD_OUT):
            texts += _stdlib(held_out=name == STDLIB_HELD_OUT)
        else:
            texts.append((name, load_book(name).text))
    return [Document(name, np.asarray(encode(text), dtype=np.int32)) for name, text in texts]


def cut_segments(
    documents: Sequence[Document], tokens: int, rng: np.random.Generator | None = None
) -> list[Document]:
    """Segments of `tokens` ids each, in order. With `rng` each document begins at a random place.

    Documents that are shorter give none. Raises ConfigError if there are none at all.
    """
    segments = []
    for document in documents:
        spare = len(document.ids) - tokens
        first = 0 if rng is None or spare < 1 else int(rng.integers(min(spare, tokens)))
        for start in range(first, spare + 1, tokens):
            segments.append(Document(document.name, document.ids[start : start + tokens]))
    if not segments:
        raise ConfigError(
            f"a segment has {tokens:,} tokens and no document is as long; name longer ones or lower segment_blocks"
        )
    return segments


def _stdlib(*, held_out: bool) -> list[tuple[str, str]]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(folder.glob("*.py")):
        digest = hashlib.blake2b(path.name.encode(), digest_size=2).digest()
        if (int.from_bytes(digest, "big") % _HELD_OUT_OF == 0) == held_out:
            found.append((path.name, path.read_text(encoding="utf-8")))
    return found
