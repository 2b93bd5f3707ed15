"""Results that took long are kept: the run of a notebook is found again by its recipe and by the code that made it.

A kept run is a run folder like any other, which the workbench opens, with one more file: `notebook.json` says which
notebook asked for it, the fingerprint of its recipe, and a digest of all code and data that could have had a hand in
it. The file is written last, so that a run that was interrupted is never taken for a result. Any change of the recipe,
of the notebook, of MegaContext or of what ships in `data/` makes the run anew; nothing is ever kept by date or by name.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import megacontext
import megakernels
from megacontext.config import data_root, fingerprint
from megacontext.runtime.run import write_json

MARK = "notebook.json"


@dataclass(frozen=True)
class KeptRun:
    """A run that a notebook shows."""

    path: Path
    recipe: str
    """Fingerprint of its recipe."""
    code: str
    """Digest of what made it."""
    found: bool
    """Whether it was there already."""


def kept_run(
    notebook: Path, config: Any, make: Callable[[Path, str], Path], runs: Path, *, anew: bool = False
) -> KeptRun:
    """The finished run of `config`, found in the folder `runs` or else made there.

    `make(runs, name)` makes the run folder of that name and returns its path. `anew` makes one in any case.
    """
    mark = {
        "notebook": notebook.stem,
        "config": type(config).__name__,
        "recipe": fingerprint(config),
        "code": code_digest(notebook),
    }
    if not anew:
        for path in sorted(runs.glob(f"*/{MARK}")):
            if _read(path) == mark:
                return KeptRun(path.parent, mark["recipe"], mark["code"], found=True)
    made = make(runs, next(name for name in _names(notebook) if not (runs / name).exists()))
    write_json(made / MARK, mark)
    return KeptRun(made, mark["recipe"], mark["code"], found=False)


def code_digest(notebook: Path) -> str:
    """16 hex digits over the notebook, the sources of MegaContext and its kernels, and everything in data/."""
    return hashlib.blake2b(notebook.read_bytes() + _behind().encode(), digest_size=8).hexdigest()


@functools.cache
def _behind() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for root, pattern in ((megacontext, "*.py"), (megakernels, "*.py"), (None, "*")):
        folder = data_root() if root is None else Path(root.__file__ or "").parent
        for path in sorted(folder.rglob(pattern)):
            if path.is_file():
                digest.update(f"\0{path.relative_to(folder)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> object:
    """None for a mark that cannot be read: its run is then made again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _names(notebook: Path) -> Iterator[str]:
    """02-text-to-tree, 02-text-to-tree-2, ..."""
    name, number = notebook.stem.replace("_", "-"), 1
    while True:
        yield name if number == 1 else f"{name}-{number}"
        number += 1
