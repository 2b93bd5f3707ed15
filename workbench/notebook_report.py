"""The report of a notebook: what its cells showed, on one sheet that opens from disk.

The app runs in this process and nothing is read back from an earlier page, so a report cannot show what is stale: what
stands in it comes from the run that wrote it, or from a kept run, whose recipe and code are named. marimo's words
become HTML as they are, its tables plain ones, figures are drawn once on the sheet; a form is left out, for the values
that it would hold are listed. Whatever else needs marimo's front end is refused, because it would be blank here.
"""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from markupsafe import Markup

from megacontext.config import data_root
from megacontext.errors import ConfigError
from megacontext.runtime.run import environment
from workbench.keeping import KeptRun, code_digest
from workbench.notebook import Showing, collected
from workbench.sheet import sheet
from workbench.stores.run import RunStore
from workbench.text import plain, table

_FIGURES = re.compile(r'<div data-figures="(\d+)"></div>')
_TABLE = re.compile(
    r"<marimo-ui-element[^>]*><marimo-table[^>]*?data-data='([^']*)'[^>]*></marimo-table></marimo-ui-element>"
)
_FRONT_END = re.compile(r"<(marimo-[a-z-]+)")
_VAULT = re.compile(r'href="\.\./(obsidian/[^"]*)"')


@dataclass(frozen=True)
class Executed:
    """A notebook that ran to its end."""

    path: Path
    outputs: Sequence[Any]
    """What its cells showed, in order."""
    showing: Showing
    seconds: float

    @property
    def title(self) -> str:
        """Its first heading."""
        return self._first(r"<h1[^>]*>(.*?)</h1>") or self.path.stem

    @property
    def question(self) -> str:
        """What it asks, as its opening says; empty where it does not."""
        return self._first(r"<strong>Question\.</strong>(.*?)</span>")

    def _first(self, pattern: str) -> str:
        texts = "".join(getattr(output, "text", None) or "" for output in self.outputs[:3])
        found = re.search(pattern, texts, re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", "", found[1])).split()) if found else ""


def execute(path: Path) -> Executed:
    """Run a notebook in this process, with the arguments in sys.argv. Whatever a cell raises is raised."""
    began = datetime.now(UTC)
    notebook = _module(path)
    with collected() as showing:
        outputs, _ = notebook.app.run()
    seconds = (datetime.now(UTC) - began).total_seconds()
    return Executed(path, outputs, showing, seconds)


def render(executed: Executed, folder: Path, made_from: str = "") -> str:
    """The report as HTML, for a file in `folder`. Raises ConfigError for what needs marimo's front end.

    `made_from` goes into its head (`kept_pages`).
    """
    figures = {
        f"{group}-{place}": element
        for group, elements in enumerate(executed.showing.figures)
        for place, element in enumerate(elements)
    }
    parts = [part for output in executed.outputs for part in _parts(output, executed, folder)]
    page = {
        "title": f"{executed.title} · MegaContext",
        "parts": parts,
        "made": made(executed),
        "made_from": made_from,
        "runs": [_about(run) for run in executed.showing.runs],
        "program": plain(executed.path.read_text(encoding="utf-8"), 100_000),
    }
    return sheet("notebook.html.j2", page, figures)


def made(executed: Executed) -> list[tuple[str, Markup | str]]:
    """By what, when, on what, and of which sizes."""
    values, about = executed.showing.arguments, environment()
    return [
        ("notebook", plain(executed.path.name)),
        ("arguments", plain(" ".join(f"--{name} {value}" for name, value in values.items()) or "none")),
        ("digest of code and data", code_digest(executed.path)),
        ("written", f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC"),
        ("took", f"{executed.seconds:.1f} s, of which runs that were found took none"),
        ("device", plain(about["device"])),
        *((plain(name), plain(version)) for name, version in about["versions"].items()),
    ]


def _about(run: KeptRun) -> dict[str, Any]:
    store = RunStore(run.path)
    started = store.info.started
    return {
        "name": plain(store.name, 120),
        "facts": [
            ("recipe", run.recipe),
            ("code and data", run.code),
            ("seed", plain(store.info.raw.get("seed", "–"), 40)),
            ("made", "–" if started is None else f"{started:%d %B %Y, %H:%M} UTC"),
            ("this time", "found as it was kept" if run.found else "made"),
            ("device", plain(store.info.raw.get("device", "–"), 80)),
        ],
        "recipe": plain(store.recipe_text, 50_000),
    }


def _parts(output: Any, executed: Executed, folder: Path) -> list[dict[str, Any]]:
    """One cell's output as pieces of the sheet: words, figures by name, tables."""
    text = getattr(output, "text", None)
    if output is None or "<marimo-form" in (text or ""):
        return []
    if not isinstance(text, str):
        raise ConfigError(
            f"a cell of {executed.path.name} shows a {type(output).__name__}; a report holds mo.md, tables and "
            "offline() figures, show one of these"
        )
    # A table first: its data are a quoted attribute, which nothing else may be looked for in.
    pieces = _TABLE.split(text)
    parts: list[dict[str, Any]] = []
    for place, piece in enumerate(pieces):
        if place % 2:
            parts.append({"table": _table(json.loads(json.loads(html.unescape(piece))))})
            continue
        for at, words in enumerate(_FIGURES.split(piece)):
            if at % 2:
                group = int(words)
                names = [f"{group}-{one}" for one in range(len(executed.showing.figures[group]))]
                parts.append({"figures": names})
            elif needed := _FRONT_END.search(words):
                raise ConfigError(
                    f"a cell of {executed.path.name} shows a <{needed[1]}>, which is blank without marimo's front end; "
                    "show mo.md, a table or offline() figures"
                )
            elif re.sub(r"<[^>]*>", "", words).strip():
                parts.append({"words": Markup(_balanced(_linked(words, folder)))})
    return parts


def _table(rows: list[dict[str, Any]]) -> Markup:
    """Texts to the left, numbers to the right: a column is of numbers where its first value is one."""
    if not rows:
        return Markup('<p class="muted">No rows.</p>')
    head = list(rows[0])
    first = next((at for at, name in enumerate(head) if isinstance(rows[0][name], int | float)), len(head))
    lines = [[_cell(row[name]) for name in head] for row in rows]
    return table([plain(name, 80) for name in head], lines, first=max(first, 1))


def _cell(value: object) -> Markup | str:
    if isinstance(value, bool) or value is None:
        return "–" if value is None else "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return plain(value, 200)


def _linked(words: str, folder: Path) -> str:
    """Links to the vault, which stands beside the notebooks, as seen from the report's folder."""
    checkout = os.path.relpath(data_root().parent, folder.resolve())
    return _VAULT.sub(lambda match: f'href="{checkout}/{match[1]}"', words)


def _balanced(words: str) -> str:
    """Without tags of a row or column that something else was cut out of: they open here and close elsewhere."""
    return re.sub(r"</?div[^>]*>", "", words)


def _module(path: Path) -> ModuleType:
    """The notebook, imported from its file: its setup runs, its cells do not. Raises ConfigError for no notebook."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"a notebook must be a Python file, {path} is none; check the path")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if not hasattr(module, "app"):
        raise ConfigError(f"a notebook holds a marimo app named app, {path} has none; check the path")
    return module
