"""Where text comes from: files, folders, patterns, standard input, and the rows of parquet tables.

`find_sources` turns what somebody typed into sources, every one of them checked to be text before the first
is used. A source streams its text in pieces, so that a gigabyte passes through a few megabytes of memory.
Pieces are cut behind a line break and before a character that is no blank: there the split pattern of
`megacontext.tokenizer` ends a match whatever follows, so the ids of the pieces, one after another, are the
ids of the whole text.

What was named must be text, or it is refused in a sentence. What only lies in a folder or matches a pattern
is left out instead, and reported. Deliberately knows nothing of tokens and memories.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import itertools
import os
import re
import shutil
import stat
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from megacontext.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

PIECE_CHARACTERS = 1 << 16
"""A piece ends at the last safe place up to here."""
LONGEST_PIECE_CHARACTERS = 1 << 20
"""A text without a safe place is cut here all the same; a token may then differ at that one cut."""
LEFT_OUT_FOLDERS = ("__pycache__", "node_modules")
"""Beside everything whose name begins with a dot."""
TEXT_COLUMN = "text"

_CHUNK_BYTES = 1 << 16
_BATCH_BYTES = 1 << 23
_BATCH_ROWS = 4096
_BLANKS = " \t\n\r\v\f"
_SAFE_PLACE = re.compile(r"\n(?=\S)")

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
        """The whole text in pieces of at most about a chunk, cut anywhere. Raises _Unusable."""

    def text(self) -> Iterator[str]:
        """The text in order, in pieces whose encodings add up to the encoding of the whole.

        Raises ConfigError if it has gone, or is no text any more, since it was found.
        """
        with _named("source", self.name):
            yield from cut_pieces(self._content())

    def digest(self) -> str:
        """32 hex digits (blake2b) of the text in UTF-8: equal for equal text, whatever its name and time."""
        digest = hashlib.blake2b(digest_size=16)
        with _named("source", self.name):
            for text in self._content():
                digest.update(text.encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Skipped:
    """What lay in a folder or matched a pattern and is no text; or rows of a table that hold none."""

    name: str
    why: str


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
            with _named("source", stdin_name):
                search.parts.append((_spool(stdin or sys.stdin.buffer, stdin_name),))
        elif os.path.isdir(spec):
            search.inside(spec, Path(spec), ())
        elif glob.has_magic(spec) and not os.path.lexists(spec):
            search.inside(spec, *_split_pattern(spec))
        else:
            with _named("source", spec):
                search.take(Path(spec))
    found = Found(tuple(search.parts), tuple(search.skipped))
    _check_names(found)
    return found


def read_text(path: Path, noun: str = "source") -> str:
    """The text of a UTF-8 file. Raises ConfigError that calls the file a `noun`."""
    with _named(noun, str(path)):
        return "".join(_decoded(_file_chunks(path)))


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


class _Unusable(Exception):
    """Why something is no source: in a word for a report, and the parts of a sentence for who named it."""

    def __init__(self, why: str, rule: str, fault: str, way_out: str):
        super().__init__(why)
        self.why, self.rule, self.fault, self.way_out = why, rule, fault, way_out


@contextmanager
def _named(noun: str, name: str) -> Iterator[None]:
    """Turns what is wrong inside into the sentence for whoever asked for `name`."""
    try:
        yield
    except _Unusable as problem:
        raise ConfigError(
            f"a {noun} must {problem.rule}, {name} {problem.fault}; {problem.way_out}"
        ) from None


def _unreadable(problem: OSError) -> _Unusable:
    return _Unusable(
        f"unreadable ({problem.strerror})",
        "be a readable file",
        f"is not ({problem.strerror})",
        "check the path",
    )


def _file_chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as problem:
        raise _unreadable(problem) from None


def _decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """UTF-8 without its byte order mark, decoded strictly. Raises _Unusable, for blank text only at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    read_bytes, blank, first = 0, True, True
    # An empty chunk at the end asks the decoder for a character that was cut off there.
    for chunk in itertools.chain(chunks, (b"",)):
        if b"\0" in chunk:
            raise _Unusable(
                "binary", "be text", "holds zero bytes and looks binary", "give a plain text file"
            )
        held_bytes = len(decoder.getstate()[0])  # the beginning of a character that ended the last chunk
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as problem:
            raise _not_utf8(read_bytes - held_bytes + problem.start) from None
        read_bytes += len(chunk)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        blank = blank and not text.strip(_BLANKS)
        yield text
    if blank:
        raise _Unusable("empty", "hold text", "is empty", "give another file")


def _not_utf8(byte: int) -> _Unusable:
    return _Unusable(
        f"not UTF-8 at byte {byte:,}",
        "be UTF-8 text",
        f"is not at byte {byte:,}",
        "convert it, e.g. with `iconv -f latin1 -t utf-8`",
    )


@dataclass(frozen=True, kw_only=True)
class _ByteSource(Source):
    chunks: Callable[[], Iterator[bytes]] = field(repr=False)

    def _content(self) -> Iterator[str]:
        return _decoded(self.chunks())

    def checked(self) -> _ByteSource:
        """Itself, read from end to end. Raises _Unusable if it is no text."""
        for _ in self._content():
            pass
        return self


@dataclass(frozen=True, kw_only=True)
class _RowSource(Source):
    column: _TextColumn = field(repr=False)
    row: int = field(repr=False)

    def _content(self) -> Iterator[str]:
        text = self.column.text(self.row)
        for start in range(0, len(text), _CHUNK_BYTES):
            yield text[start : start + _CHUNK_BYTES]


def _spool(stdin: BinaryIO, name: str) -> Source:
    """The text that comes once, kept in a file without a name, which goes when the source or the process does."""
    file = tempfile.TemporaryFile(prefix="megacontext-")  # noqa: SIM115
    shutil.copyfileobj(stdin, file, _CHUNK_BYTES)
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
    while chunk := os.pread(file.fileno(), _CHUNK_BYTES, place):
        yield chunk
        place += len(chunk)


def _open_file(path: Path) -> _ByteSource | _TextRows:
    """The sources in one file, checked from end to end. Raises _Unusable."""
    try:
        about = path.stat()
    except OSError as problem:
        raise _unreadable(problem) from None
    if stat.S_ISDIR(about.st_mode):
        why = "a link to a folder" if path.is_symlink() else "a folder that cannot be read"
        raise _Unusable(why, "be a file", "is " + why, "name the folder itself")
    if not stat.S_ISREG(about.st_mode):  # reading a pipe or a device might never end
        raise _Unusable("no regular file", "be a regular file", "is none", "pipe it in and name it -")
    modified = datetime.fromtimestamp(about.st_mtime, tz=UTC)
    if path.suffix.lower() == ".parquet":
        return _TextRows(_shown(path), modified, _TextColumn(path, about.st_size))
    return _ByteSource(
        name=_shown(path),
        media_type=_MEDIA_TYPES.get(path.suffix.lower(), "text/plain"),
        modified=modified,
        size_bytes=about.st_size,
        chunks=partial(_file_chunks, path),
    ).checked()


def _shown(path: Path) -> str:
    """The name of a file: relative inside the working folder, and text even where the system's name is none."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


class _TextColumn:
    """The texts of one parquet table, read a few at a time: their order and places never change."""

    def __init__(self, path: Path, file_bytes: int):
        import polars as pl  # a fifth of a second that only tables cost

        with _polars_refusals():
            # The path is one file, whatever characters and folders it is made of.
            table = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            schema = table.collect_schema()
            if schema.get(TEXT_COLUMN) != pl.String:
                raise _Unusable(
                    f"no column {TEXT_COLUMN!r} of strings",
                    f"have a column {TEXT_COLUMN!r} of strings to be read as a table",
                    f"has {', '.join(f'{name!r} of {kind}' for name, kind in schema.items())}",
                    "rename or convert the one that holds the texts",
                )
            self.num_rows: int = table.select(pl.len()).collect().item()
        self.batch_rows = max(1, min(_BATCH_ROWS, self.num_rows * _BATCH_BYTES // file_bytes))
        self._texts = table.select(TEXT_COLUMN)
        self._latest: tuple[int, list[str]] = (-1, [])

    def batch(self, number: int) -> pl.Series:
        """The texts of rows [number * batch_rows, (number + 1) * batch_rows). Raises _Unusable."""
        with _polars_refusals():
            rows = self._texts.slice(number * self.batch_rows, self.batch_rows).collect()
        return rows.get_column(TEXT_COLUMN)

    def text(self, row: int) -> str:
        """Of one row. The batch around it is kept, since rows are mostly read in order."""
        number, place = divmod(row, self.batch_rows)
        latest, texts = self._latest
        if number != latest:
            texts = self.batch(number).to_list()
            self._latest = number, texts
        if place >= len(texts) or texts[place] is None:
            raise _Unusable("changed", "stay as it was found", "was changed since", "begin again")
        return texts[place]


@contextmanager
def _polars_refusals() -> Iterator[None]:
    import polars as pl

    try:
        yield
    except OSError as problem:
        raise _unreadable(problem) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as problem:
        # Whatever damage polars meets; a panic of it is no Exception. One kind escapes: a damaged length for which it
        # asks for more memory than there is ends the process.
        raise _Unusable(
            "no sound parquet table",
            "be a sound parquet table",
            f"is not ({(str(problem).splitlines() or ['no reason given'])[0][:120]})",
            "write it again",
        ) from None


class _TextRows(Sequence[Source]):
    """The rows of one table that hold text, as sources named `table.parquet#row`, rows counted from 0."""

    def __init__(self, name: str, modified: datetime, column: _TextColumn):
        self._name, self._modified, self._column = name, modified, column
        self.skipped: list[Skipped] = []
        self._rows, self._sizes = self._check()
        if len(self._rows) == 0:
            raise _Unusable("a table without text", "hold text", "has no row that does", "give another file")

    def _check(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and UTF-8 bytes of the rows with text; the others are noted in `skipped`."""
        column = self._column
        sizes = np.zeros(column.num_rows, dtype=np.uint32)
        blank, binary = np.zeros((2, column.num_rows), dtype=bool)
        for number, start in enumerate(range(0, column.num_rows, column.batch_rows)):
            texts = column.batch(number).fill_null("")
            here = slice(start, start + len(texts))
            sizes[here] = texts.str.len_bytes()
            blank[here] = texts.str.strip_chars(_BLANKS) == ""
            binary[here] = texts.str.contains("\0", literal=True)
        for why, rows in (("without text", blank), ("with zero bytes", binary)):
            if rows.any():
                report = f"{rows.sum():,} of {len(rows):,} rows {why}, the first #{rows.argmax()}"
                self.skipped.append(Skipped(self._name, report))
        kept = np.flatnonzero(~(blank | binary))
        return kept, sizes[kept]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Source:  # type: ignore[override]
        row = int(self._rows[index])
        return _RowSource(
            name=f"{self._name}#{row}",
            media_type="text/plain",
            modified=self._modified,
            size_bytes=int(self._sizes[index]),
            column=self._column,
            row=row,
        )


class _Search:
    """What was found so far."""

    def __init__(self) -> None:
        self.parts: list[Sequence[Source]] = []
        self.skipped: dict[Skipped, None] = {}  # in order, each once
        self._taken: set[str] = set()

    def take(self, path: Path) -> None:
        """Add what one file holds, unless it was added before. Raises _Unusable."""
        place = os.path.realpath(path)
        if place in self._taken:
            return
        part = _open_file(path)
        self._taken.add(place)
        if isinstance(part, _TextRows):
            self.skipped.update(dict.fromkeys(part.skipped))
            self.parts.append(part)
        else:
            self.parts.append((part,))

    def inside(self, spec: str, folder: Path, pattern: tuple[str, ...]) -> None:
        """Take every text below `folder` that `pattern` reaches. Raises ConfigError if there is none."""
        texts, others = 0, []
        for path in _walk(folder, pattern):
            try:
                self.take(path)
                texts += 1
            except _Unusable as problem:
                others.append(Skipped(_shown(path), problem.why))
        self.skipped.update(dict.fromkeys(others))
        if not texts:
            reason = f"; the first of {len(others):,} is {others[0].name}: {others[0].why}" if others else ""
            raise ConfigError(
                f"a {'pattern must match' if pattern else 'folder must hold'} text, {spec} has none"
                f"{reason}; check the path"
            )


def _split_pattern(spec: str) -> tuple[Path, tuple[str, ...]]:
    """The folder that a pattern begins with, and the parts of it that remain to be matched."""
    path = Path(spec)
    plain = tuple(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    return Path(*plain), path.parts[len(plain) :]


def _walk(folder: Path, pattern: tuple[str, ...]) -> Iterator[Path]:
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
