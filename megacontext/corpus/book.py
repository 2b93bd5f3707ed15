"""Reading a book: a text file, or the name of one that ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacontext.config import data_root
from megacontext.errors import UnknownVariantError
from megacontext.sources import read_text


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
        return Book(title, "public domain (see data/README.md)", read_text(shipped, "book"))
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and path.name == name_or_path:
        raise UnknownVariantError(
            f"a book must be a text file or one of {', '.join(shipped_books())}, got {name_or_path!r}; check the name"
        )
    return Book(path.name, "given by the user", read_text(path, "book"))
