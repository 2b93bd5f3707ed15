"""What a source is: one text with where it comes from, streamed in pieces that can be tokenized alone.

A gigabyte passes through a few megabytes of memory. Pieces are cut behind a line break and before a character that
is no blank: there the split pattern of `megacontext.tokenizer` ends a match whatever follows, so the ids of the
pieces, one after another, are the ids of the whole text.

Deliberately knows nothing of where the text is kept; files.py and tables.py do.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from megacontext.sources.refusal import refusing

PIECE_CHARACTERS = 1 << 16
"""A piece ends at the last safe place up to here."""
LONGEST_PIECE_CHARACTERS = 1 << 20
"""A text without a safe place is cut here all the same; a token may then differ at that one cut."""
CHUNK_BYTES = 1 << 16
"""How much is read at once."""
BLANKS = " \t\n\r\v\f"
"""A text of these alone is empty."""
_SAFE_PLACE = re.compile(r"\n(?=\S)")


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """One text with where it comes from. It is read when `text` or `digest` is called, and again each time."""

    name: str
    """The path as it was given, relative to the working folder where it lies inside; unique among sources."""
    media_type: str
    modified: datetime | None
    """In UTC."""
    size_bytes: int | None
    tags: tuple[str, ...] = ()

    @abstractmethod
    def _content(self) -> Iterator[str]:
        """The whole text in pieces of at most about a chunk, cut anywhere. Raises Unusable."""

    def text(self) -> Iterator[str]:
        """The text in order, in pieces whose encodings add up to the encoding of the whole.

        Raises ConfigError if it has gone, or is no text any more, since it was found.
        """
        with refusing("source", self.name):
            yield from cut_pieces(self._content())

    def digest(self) -> str:
        """32 hex digits (blake2b) of the text in UTF-8: equal for equal text, whatever its name and time."""
        digest = hashlib.blake2b(digest_size=16)
        with refusing("source", self.name):
            for text in self._content():
                digest.update(text.encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Skipped:
    """What lay in a folder or matched a pattern and is no text; or rows of a table that hold none."""

    name: str
    why: str


def cut_pieces(texts: Iterable[str]) -> Iterator[str]:
    """The same text in pieces that can be tokenized alone, the same ones however it arrives.

    A piece ends at the last safe place within PIECE_CHARACTERS; where there is none, at the first one after
    that; and at LONGEST_PIECE_CHARACTERS if there is none until there either.
    """
    pending = ""
    for text in texts:
        pending += text
        while cut := _cut(pending):
            yield pending[:cut]
            pending = pending[cut:]
    if pending:
        yield pending


def _cut(pending: str) -> int:
    """Length of the piece that `pending` begins with, or 0 as long as that may depend on what follows."""
    if len(pending) <= PIECE_CHARACTERS:
        return 0
    place = PIECE_CHARACTERS
    while (place := pending.rfind("\n", 0, place)) >= 0:
        if not pending[place + 1].isspace():
            return place + 1
    later = _SAFE_PLACE.search(pending, PIECE_CHARACTERS, LONGEST_PIECE_CHARACTERS + 1)
    if later:
        return later.end()
    return LONGEST_PIECE_CHARACTERS if len(pending) > LONGEST_PIECE_CHARACTERS else 0
