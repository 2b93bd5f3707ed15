"""A sheet: one HTML file that opens from disk, years later and without a network, its charts as lively as on a page.

BokehJS is written into the file once; fonts are those of the reader's system; light and dark follow the reader's
setting. What is shown comes from others, and may be untrusted: templates escape everything that is not Markup. Equal
figures and words make equal files, byte for byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from bokeh.embed import components
from bokeh.resources import Resources
from markupsafe import Markup

from workbench.palette import BAD, DARK, FONT, GOOD, LIGHT, MONOSPACE
from workbench.plots.style import Plot, figure_of


def sheet(template: str, page: Mapping[str, Any], figures: Mapping[str, Plot]) -> str:
    """A template of this folder, filled: `plot[name]` there is the place of the figure of that name."""
    script, places = _embedded(figures)
    given = {
        "colours": {"light": LIGHT, "dark": DARK, "good": GOOD, "bad": BAD},
        "font": Markup(FONT),
        "monospace": Markup(MONOSPACE),
        "plot": places,
        "script": script,
        "bokeh": _bokeh_js() if figures else Markup(""),
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return made.get_template(template).render(given | dict(page)) + "\n"


def write_whole(path: Path, text: str) -> Path:
    """Write a file whole or not at all; its path."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _embedded(figures: Mapping[str, Plot]) -> tuple[Markup, dict[str, Markup]]:
    """One script for all plots, and the place of each; both the same for the same plots."""
    if not figures:
        return Markup(""), {}
    script, places = components({name: figure_of(element) for name, element in figures.items()})
    renamed = _renamer()
    # Text of a run reaches the script only inside JSON, where Bokeh escapes "</"; ids are made anew here.
    return Markup(renamed(script)), {name: Markup(renamed(place)) for name, place in places.items()}


def _renamer() -> Callable[[str], str]:
    """Replaces Bokeh's ids, which count on through a process or are random, by numbers in order of appearance."""
    names: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"id{len(names):05d}")

    pattern = re.compile(
        r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|(?<=\")p\d{4,}(?=\")"
    )
    counted = re.compile(r"(?<=\")([A-Z][A-Za-z]+)\d{5}(?=\")")  # names of HoloViews objects
    return lambda text: counted.sub(r"\1", pattern.sub(name, text))


def _bokeh_js() -> Markup:
    """BokehJS without widgets and tables, which a sheet does not use."""
    resources = Resources(mode="inline", components=["bokeh"])
    return Markup("\n").join(Markup(text) for text in resources.js_raw)
