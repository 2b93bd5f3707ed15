"""The HTML that a browser gets before anything else: what it loads, in which order, and what it need not.

Panel's page is made for any app. Ours draws without WebGL and writes no formulas, so those scripts are left out. Every
module of it is whole, so the browser's own `import` will do, which keeps what it has compiled; the shim that Panel
brings for import maps has 1.4 MB compiled anew for every page. And the largest module is asked for with the first
scripts, and not when they have run. Nor is the page kept dark until its last figure is drawn: words are there to be
read.

A browser paints nothing before it has run the scripts, and read the style sheets, that stand in front of a page. So
they stand back, and a foreword is painted meanwhile: where things will stand, and what is being opened. It lies behind
the page, which covers it, and goes once that is there. Deliberately ignorant of what the page shows.
"""

from __future__ import annotations

import re

from bokeh.document import Document
from bokeh.model import Model
from markupsafe import Markup
from panel.io.resources import BASE_TEMPLATE

UNUSED_SCRIPTS = ("bokeh-gl", "bokeh-mathjax", "es-module-shims")
_SCRIPT = re.compile(
    rf'<script type="text/javascript" src="[^"]*/(?:{"|".join(UNUSED_SCRIPTS)})[^"/]*"></script>\s*'
)
_SOURCE = re.compile(r'<script type="text/javascript" src=')
_SHEET = re.compile(r'<link rel="stylesheet" ')
_LEVEL = re.compile(r'<script type="text/javascript">\s*Bokeh\.set_log_level\("info"\);\s*</script>\s*')
"""Of what Bokeh tells; it is what it is by itself, and nobody is there yet to be told."""
WITHOUT_FOREWORD = 'document.getElementById("foreword")?.remove()'
"""Script for when the page is there."""
_TEMPLATE = BASE_TEMPLATE.environment.from_string("""{% extends base %}
{% block loader_css %}
{{ super() }}
      #loader { background: none; pointer-events: none; }
      .spinner { display: none; }
{% endblock %}
{% block css_resources %}{{ unhurried(super()) }}{% endblock %}
{% block postamble %}{{ unhurried(super()) }}{% endblock %}
{% block js_resources %}
{% for module in modules %}
    <link rel="modulepreload" href="{{ module }}">
{% endfor %}
    <script>window.importShim = Object.assign((url) => import(url), { addImportMap() {} })</script>
    {{ deferred(needed(bokeh_js)) }}
{% endblock %}
{% block contents %}
{{ foreword }}
{{ super() }}
{% endblock %}
""")


def dress(document: Document, foreword: Markup) -> None:
    """Give a document whose roots are there the page that they come in, and what is painted before it."""
    document.template = _TEMPLATE
    document.template_variables.update(
        modules=_modules(document.roots),
        needed=needed,
        deferred=deferred,
        unhurried=unhurried,
        foreword=foreword,
    )


def needed(scripts: str) -> str:
    """The markup that loads scripts, without those that no page of ours uses."""
    return _SCRIPT.sub("", scripts)


def deferred(scripts: str) -> str:
    """The markup that loads scripts, in their order, once the page itself has been read."""
    return _SOURCE.sub('<script type="text/javascript" defer src=', _LEVEL.sub("", scripts))


def unhurried(styles: str) -> str:
    """The markup of style sheets that nothing waits for: they are for what scripts will make."""
    return Markup(_SHEET.sub("""<link rel="stylesheet" media="print" onload="this.media='all'" """, styles))


def _modules(roots: list[Model]) -> list[str]:
    """Addresses of modules that are files, as components of these roots name them."""
    found = {
        model.esm for root in roots for model in root.references() if getattr(model, "bundle", None) == "url"
    }
    return sorted(found)
