"""Paths, modules and tests that prose names in code spans are there.

What is taken for a path of ours: a span without blanks whose first folder is one of the checkout's, or of a package
(`focus/allocator.py` is megacontext/focus/allocator.py). `a/{b,c}.py` is both, `*` matches, what holds `<`, `...` or a
word in capitals stands for something and is left alone. `tests/x/test_y.py::test_z` is a test of that name. A dotted
name that begins with a package of ours is a module, or something that a module defines; so is what a block of Python
imports, what the page defines itself left aside.

Paths of what a run writes (`runs/...`) are no paths of ours.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from doccheck.pages import Finding, Mention, Page

PACKAGES = {"megacontext": "megacontext", "workbench": "workbench", "megakernels": "kernels/megakernels"}
FOLDERS = ("megacontext", "workbench", "kernels", "notebooks", "data", "tests", "tools", "obsidian", ".ci")
_PATH = re.compile(r"[\w.\-{},*?\[\] ]+(/[\w.\-{},*?\[\] ]+)*/?(::\w+)?")
_DOTTED = re.compile(r"(megacontext|workbench|megakernels)(\.\w+)+")
_DEFINES = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)
_STANDS_FOR = re.compile(r"<|\.\.\.|\b[A-Z]{2,}\b(?!\.md)|(^|[/._])[A-Z]([/._]|$)")


def check_places(root: Path, pages: Sequence[Page]) -> Iterator[Finding]:
    """One sentence for each path, module or test that is named and not there."""
    for page in pages:
        blocks = [
            block for section in page.sections for language, block in section.fences if language == "python"
        ]
        own = {name for block in blocks for name in _DEFINES.findall(block.text)}
        for block in blocks:
            for line, name in _imported(block):
                if (
                    _DOTTED.fullmatch(name)
                    and own.isdisjoint(name.split("."))
                    and (says := missing(root, name))
                ):
                    yield page.find(line, says)
        for section in page.sections:
            for code in section.code:
                if says := missing(root, code.text):
                    yield page.find(code.line, says)


def missing(root: Path, text: str) -> str | None:
    """Why `text`, a span of code, names nothing that is there; None if it does, or is no path or module."""
    if _DOTTED.fullmatch(text):
        if not _is_module(root, text):
            return f"a module must be there, {text} is neither one nor defined in one; mend the name"
        return None
    path, _, test = text.partition("::")
    path = path.split(": ")[0]
    if not is_path(root, path) or _STANDS_FOR.search(path):
        return None
    for one in _expanded(path):
        there = places(root, one)
        if not there:
            return f"a path must be there, {one} is not; mend the name"
        if test and test not in _defined(there[0]):
            return f"a test must be there, {one} has no {test}; mend the name"
    return None


def _imported(block: Mention) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a block of Python imports; nothing of what is no whole program."""
    try:
        tree = ast.parse(block.text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((block.line + node.lineno - 1, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((block.line + node.lineno - 1, alias.name) for alias in node.names)


def is_path(root: Path, text: str) -> bool:
    """Whether a word is meant as a path of ours."""
    if "/" not in text or not _PATH.fullmatch(text) or (" " in text and not text.endswith(".md")):
        return False
    first = text.split("/")[0]
    return first in FOLDERS or any((root / home / first).is_dir() for home in PACKAGES.values())


def places(root: Path, path: str) -> list[Path]:
    """The files or folders of that path, from the root or from a package; with `*`, all that match."""
    homes = [root, *(root / home for home in PACKAGES.values())]
    return [
        found
        for home in homes
        for found in ([home / path] if "*" not in path else home.glob(path))
        if found.exists()
    ]


def _expanded(path: str) -> list[str]:
    pieces = re.split(r"\{([^}]*)\}", path)
    choices = [piece.split(",") if odd % 2 else [piece] for odd, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _is_module(root: Path, dotted: str) -> bool:
    first, *rest = dotted.split(".")
    place = root / PACKAGES[first]
    for depth, name in enumerate(rest):
        if (place / name).is_dir():
            place = place / name
        elif (place / f"{name}.py").is_file():
            place = place / f"{name}.py"
        else:
            module = place / "__init__.py" if place.is_dir() else place
            return depth == len(rest) - 1 and name in _defined(module)
    return True


@cache
def _defined(module: Path) -> frozenset[str]:
    """What a module's top level binds, and its tests."""
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)
