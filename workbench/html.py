"""The HTML that a browser gets before anything else: what it loads, in which order, and what it need not.

Panel's page is made for any app. Ours draws without WebGL and writes no formulas, so those scripts are left out. Every
module of it is whole, so the browser's own `import` will do, which keeps what it has compiled; the shim that Panel
brings for import maps has 1.4 MB compiled anew for every page. And the largest module is asked for with the first
scripts, and not when they have run. Nor is the page kept dark until its last figure is drawn: words are there to be
read. Deliberately ignorant of what the page shows.
"""

from __future__ import annotations

import re

from bokeh.document import Document
from bokeh.model import Model
from panel.io.resources import BASE_TEMPLATE

UNUSED_SCRIPTS = ("bokeh-gl", "bokeh-mathjax", "es-module-shims")
_SCRIPT = re.compile(
    rf'<script type="text/javascript" src="[^"]*/(?:{"|".join(UNUSED_SCRIPTS)})[^"/]*"></script>\s*'
)
_TEMPLATE = BASE_TEMPLATE.environment.from_string("""{% extends base %}
{% block loader_css %}
{{ super() }}
      #loader { background: none; pointer-events: none; }
      .spinner { display: none; }
{% endblock %}
{% block js_resources %}
{% for module in modules %}
    <link rel="modulepreload" href="{{ module }}">
{% endfor %}
    <script>window.importShim = Object.assign((url) => import(url), { addImportMap() {} })</script>
    {{ needed(bokeh_js) }}
{% endblock %}
""")


def dress(document: Document) -> None:
    """Give a document whose roots are there the page that they come in."""
    document.template = _TEMPLATE
    document.template_variables.update(modules=_modules(document.roots), needed=needed)


def needed(scripts: str) -> str:
    """The markup that loads scripts, without those that no page of ours uses."""
    return _SCRIPT.sub("", scripts)


def _modules(roots: list[Model]) -> list[str]:
    """Addresses of modules that are files, as components of these roots name them."""
    found = {
        model.esm for root in roots for model in root.references() if getattr(model, "bundle", None) == "url"
    }
    return sorted(found)
