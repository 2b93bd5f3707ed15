"""Texts in files and from standard input: UTF-8, decoded strictly and checked from end to end.

Deliberately knows nothing of folders and patterns, and takes every file for a text.
"""

from __future__ import annotations

import codecs
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from megacontext.sources.refusal import Unusable, refusing, unreadable
from megacontext.sources.source import BLANKS, CHUNK_BYTES, Source

_SUFFIXES = """
application/json .json | application/toml .toml | application/x-ndjson .jsonl | application/xml .xml
application/yaml .yaml .yml | text/css .css | text/csv .csv | text/html .html .htm
text/javascript .js .jsx .mjs | text/markdown .md .markdown | text/tab-separated-values .tsv
text/x-asciidoc .adoc | text/x-c .c .h | text/x-c++ .cc .cpp .hpp | text/x-clojure .clj | text/x-csharp .cs
text/x-cuda .cu | text/x-dart .dart | text/x-elixir .ex .exs | text/x-go .go | text/x-haskell .hs
text/x-ini .ini | text/x-java .java | text/x-julia .jl | text/x-kotlin .kt | text/x-lua .lua
text/x-ocaml .ml | text/x-perl .pl | text/x-php .php | text/x-protobuf .proto | text/x-python .py .pyi
text/x-r .r | text/x-rst .rst | text/x-ruby .rb | text/x-rust .rs | text/x-scala .scala
text/x-shellscript .sh | text/x-sql .sql | text/x-swift .swift | text/x-tex .tex
text/x-typescript .ts .tsx | text/x-zig .zig
"""
_MEDIA_TYPES = {
    suffix: media_type
    for media_type, *suffixes in (entry.split() for entry in re.split(r"[|\n]", _SUFFIXES.strip()))
    for suffix in suffixes
}


def read_text(path: Path, noun: str = "source") -> str:
    """The text of a UTF-8 file. Raises ConfigError that calls the file a `noun`."""
    with refusing(noun, str(path)):
        return "".join(_decoded(_file_chunks(path)))


@dataclass(frozen=True, kw_only=True)
class _ByteSource(Source):
    chunks: Callable[[], Iterator[bytes]] = field(repr=False)

    def _content(self) -> Iterator[str]:
        return _decoded(self.chunks())

    def checked(self) -> _ByteSource:
        """Itself, read from end to end. Raises Unusable if it is no text."""
        for _ in self._content():
            pass
        return self


def text_file(path: Path, modified: datetime, size_bytes: int) -> Source:
    """The text of one file, checked from end to end. Raises Unusable."""
    return _ByteSource(
        name=shown(path),
        media_type=_MEDIA_TYPES.get(path.suffix.lower(), "text/plain"),
        modified=modified,
        size_bytes=size_bytes,
        chunks=partial(_file_chunks, path),
    ).checked()


def spooled(stdin: BinaryIO, name: str) -> Source:
    """The text that comes once, kept in a file without a name, which goes when the source or the process does."""
    file = tempfile.TemporaryFile(prefix="megacontext-")  # noqa: SIM115
    shutil.copyfileobj(stdin, file, CHUNK_BYTES)
    file.flush()
    return _ByteSource(
        name=name,
        media_type="text/plain",
        modified=None,
        size_bytes=file.tell(),
        chunks=partial(_spooled_chunks, file),
    ).checked()


def _spooled_chunks(file: BinaryIO) -> Iterator[bytes]:
    place = 0  # of its own, so that two may read at once
    while chunk := os.pread(file.fileno(), CHUNK_BYTES, place):
        yield chunk
        place += len(chunk)


def _file_chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as problem:
        raise unreadable(problem) from None


def _decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """UTF-8 without its byte order mark, decoded strictly. Raises Unusable, for blank text only at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    read_bytes, blank, first = 0, True, True
    # An empty chunk at the end asks the decoder for a character that was cut off there.
    for chunk in itertools.chain(chunks, (b"",)):
        if b"\0" in chunk:
            raise Unusable("binary", "be text", "holds zero bytes and looks binary", "give a plain text file")
        held_bytes = len(decoder.getstate()[0])  # the beginning of a character that ended the last chunk
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as problem:
            raise _not_utf8(read_bytes - held_bytes + problem.start) from None
        read_bytes += len(chunk)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        blank = blank and not text.strip(BLANKS)
        yield text
    if blank:
        raise Unusable("empty", "hold text", "is empty", "give another file")


def _not_utf8(byte: int) -> Unusable:
    return Unusable(
        f"not UTF-8 at byte {byte:,}",
        "be UTF-8 text",
        f"is not at byte {byte:,}",
        "convert it, e.g. with `iconv -f latin1 -t utf-8`",
    )


def shown(path: Path) -> str:
    """The name of a file: relative inside the working folder, and text even where the system's name is none."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
