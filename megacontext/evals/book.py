"""Reading a book: a text file, or the name of one that ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacontext.config import data_root
from megacontext.errors import ConfigError, UnknownVariantError


@dataclass(frozen=True)
class Book:
    """A text with where it comes from."""

    title: str
    licence: str
    text: str


def shipped_books() -> list[str]:
    """Names of the books in data/books."""
    return sorted(path.stem for path in (data_root() / "books").glob("*.txt"))


def load_book(name_or_path: str) -> Book:
    """The shipped book of that name, or the text file at that path.

    Raises ConfigError in a sentence for a file that is missing, empty, binary or no UTF-8.
    """
    shipped = data_root() / "books" / f"{name_or_path}.txt"
    if Path(name_or_path).name == name_or_path and shipped.is_file():
        title = name_or_path.replace("-", " ").title().replace(" And ", " and ")
        return Book(title, "public domain (see data/README.md)", read_text(shipped))
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and path.name == name_or_path:
        raise UnknownVariantError(
            f"a book must be a text file or one of {', '.join(shipped_books())}, got {name_or_path!r}; check the name"
        )
    return Book(path.name, "given by the user", read_text(path))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file."""
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise ConfigError(
            f"a book must be a readable file, {path} is not ({problem.strerror}); check the path"
        ) from None
    if not content.strip():
        raise ConfigError(f"a book must hold text, {path} is empty; give another file")
    if b"\0" in content:
        raise ConfigError(
            f"a book must be text, {path} holds zero bytes and looks binary; give a plain text file"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise ConfigError(
            f"a book must be UTF-8 text, {path} is not at byte {problem.start:,}; convert it, "
            "e.g. with `iconv -f latin1 -t utf-8`"
        ) from None
