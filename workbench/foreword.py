"""What a browser paints while it loads the page: where things will stand, and what is being opened.

It is plain HTML in the first answer of the server, so it is there before any script. Nothing in it can be used.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from workbench.palette import DARK, FONT
from workbench.state import VIEWS

_TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
    Path(__file__).with_name("foreword.html.j2").read_text(encoding="utf-8")
)


def foreword(title: str, view: str, name: str, about: Markup) -> Markup:
    """The markup: a bar with the title, what is opened with what is known `about` it, and the views."""
    return Markup(
        _TEMPLATE.render(title=title, views=VIEWS, view=view, name=name, about=about, colours=DARK, font=FONT)
    )
