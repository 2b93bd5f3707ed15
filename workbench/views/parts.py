"""What views are made of: cards, prose, key figures, empty states; one style sheet for all of them.

Colours come from the variables of the page's theme, so that switching it needs no drawing anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar, Literal, Protocol

import panel as pn
from markupsafe import Markup

import workbench.plots.style  # noqa: F401  (sets the backend of HoloViews before Panel asks for it)
from workbench.desk import Desk
from workbench.palette import BAD, FONT, GOOD, MONOSPACE
from workbench.text import plain

HAIRLINE = ":host { --hairline: color-mix(in srgb, var(--panel-on-background-color) 15%, transparent); }"

CSS = f"""
{HAIRLINE}
:host {{ font-family: {FONT}; font-size: 14px; line-height: 1.5; color: var(--panel-on-background-color); }}
h2 {{ font-size: 15px; font-weight: 600; margin: 0; line-height: 1.4; letter-spacing: 0; }}
p {{ margin: 2px 0 0; }}
.muted {{ opacity: .68; font-size: 13px; }}
.lead {{ font-size: 19px; line-height: 1.45; font-weight: 500; margin: 0; max-width: 70ch; }}
.figures {{ display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); }}
.figure {{ border: 1px solid var(--hairline); border-radius: 10px; padding: 14px 16px;
  background: var(--panel-surface-color); }}
.figure b {{ display: block; font-size: 22px; font-weight: 600; line-height: 1.3; white-space: nowrap; margin-top: 4px;
  font-variant-numeric: tabular-nums; }}
.figure span {{ font-size: 13px; opacity: .68; display: block; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 12px; }}
.chip {{ display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }}
.scale {{ display: flex; flex-wrap: wrap; align-items: center; gap: 4px 10px; font-size: 12px;
  font-variant-numeric: tabular-nums; }}
.scale i {{ width: 180px; height: 10px; border-radius: 3px; }}
.passage {{ white-space: pre-wrap; overflow-wrap: anywhere; max-height: 260px; overflow-y: auto; margin-top: 10px;
  padding: 10px 12px; border-radius: 8px; border: 1px solid var(--hairline); }}
mark {{ background: color-mix(in srgb, var(--panel-primary-color) 32%, transparent); color: inherit;
  border-radius: 3px; }}
a {{ color: var(--panel-primary-color); text-decoration: none; border-radius: 3px; }}
a:hover {{ text-decoration: underline; }}
a:focus-visible {{ outline: 2px solid var(--panel-primary-color); outline-offset: 1px; }}
ol.places {{ max-height: 560px; overflow-y: auto; }}
* + h2 {{ margin-top: 14px; }}
ol {{ margin: 4px 0 0; padding: 0; list-style: none; }}
li {{ padding: 5px 0; border-bottom: 1px solid var(--hairline); overflow-wrap: anywhere; }}
li:last-child {{ border-bottom: 0; }}
.scroll {{ overflow-x: auto; }}
.tall {{ max-height: 320px; overflow-y: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; font-weight: 500; opacity: .68; font-size: 12px; vertical-align: bottom; }}
th, td {{ padding: 6px 8px 6px 0; border-bottom: 1px solid var(--hairline); white-space: nowrap; }}
tbody tr:last-child td {{ border-bottom: 0; }}
th.number, td.number {{ text-align: right; padding: 6px 0 6px 12px; }}
tr.marked td {{ font-weight: 600; }}
.good {{ color: {GOOD}; font-weight: 600; white-space: nowrap; }}
.bad {{ color: {BAD}; font-weight: 600; white-space: nowrap; }}
.pairs {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 20px; margin: 0; }}
.pairs dt {{ opacity: .68; font-size: 13px; }}
.pairs dd {{ margin: 0; overflow-wrap: anywhere; }}
.quote {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.answer {{ font-size: 17px; font-weight: 600; }}
.passage {{ border-left: 3px solid var(--hairline); padding-left: 12px; max-width: 90ch; }}
code, .mono {{ font-family: {MONOSPACE}; font-size: 12.5px; }}
.why {{ white-space: normal; }}
.reasons {{ margin: 8px 0 0; padding: 8px 0 0; border-top: 1px solid var(--hairline); list-style: none;
  font-size: 13px; }}
.reasons b {{ flex: none; min-width: 3ch; text-align: right; font-variant-numeric: tabular-nums; }}
.reasons li {{ opacity: .8; display: flex; gap: 8px; }}
.change {{ margin: 6px 0 10px; }}
.budget {{ display: flex; height: 18px; gap: 1px; border: 1px solid var(--hairline); border-radius: 5px;
  overflow: hidden; margin: 10px 0 6px; }}
.chip.free {{ border: 1px solid var(--hairline); box-sizing: border-box; }}
.empty {{ padding: 36px 16px; text-align: center; }}
.empty b {{ display: block; font-weight: 600; margin-bottom: 4px; }}
.problem {{ border: 1px solid {BAD}; border-left-width: 4px; border-radius: 8px; padding: 12px 16px;
  overflow-wrap: anywhere; background: var(--panel-surface-color); }}
.state {{ display: inline-flex; align-items: center; gap: 7px; font-weight: 600; }}
.state i {{ width: 9px; height: 9px; border-radius: 50%; background: currentColor; }}
.state.running i {{ animation: pulse 1.4s step-end infinite; }}
@keyframes pulse {{ 50% {{ opacity: .25; }} }}
@media (prefers-reduced-motion: reduce) {{ .state.running i {{ animation: none; }} }}
"""

CARD_CSS = f"""
{HAIRLINE}
:host {{ height: auto; align-self: stretch !important; border: 1px solid var(--hairline); border-radius: 10px;
  background: var(--panel-surface-color); padding: 14px 16px 12px; box-sizing: border-box; gap: 8px; min-width: 0; }}
"""


class View(Protocol):
    """One question about what lies on the desk."""

    needs: ClassVar[Literal["run", "memory", ""]]
    """What must lie there for the view to be made."""

    def __init__(self, desk: Desk): ...

    def panel(self) -> pn.viewable.Viewable:
        """What is shown; made once."""
        ...

    def refresh(self) -> None:
        """The selection has changed, or the stores have taken in something new: show what is so now."""
        ...

    def tick(self) -> None:
        """Called twice a second while the view is looked at."""
        ...


def looked_at() -> bool:
    """Whether the page at work is open in a browser; it stays for a while after that. True outside of a server."""
    document = pn.state.curdoc
    context = None if document is None else document.session_context
    session = getattr(context, "session", None)
    return session is None or session.connection_count > 0


def prose(content: Markup | str, **options: Any) -> pn.pane.HTML:
    """HTML with the style of the page. Text of a run must come through `plain`."""
    return pn.pane.HTML(str(content), stylesheets=[CSS], sizing_mode="stretch_width", margin=0, **options)


def heading(title: str, subtitle: Markup | str = "") -> Markup:
    """Title and explanation of a card."""
    under = Markup('<p class="muted">{}</p>').format(subtitle) if subtitle else Markup("")
    return Markup("<h2>{}</h2>{}").format(title, under)


def card(title: str, subtitle: Markup | str, *objects: Any) -> pn.Column:
    """A bordered box."""
    return pn.Column(
        prose(heading(title, subtitle)),
        *objects,
        stylesheets=[CARD_CSS],
        sizing_mode="stretch_width",
        margin=0,
    )


def stack(*objects: Any) -> pn.Column:
    """Cards above one another."""
    return pn.Column(*objects, sizing_mode="stretch_width", margin=0, styles={"gap": "14px"})


def toolbar(*objects: Any) -> pn.Column:
    """Controls in a row that wraps where it is narrow."""
    css = ":host { display: flex !important; flex-flow: row wrap !important; gap: 10px 14px; align-items: end; }"
    return pn.Column(*objects, sizing_mode="stretch_width", margin=0, stylesheets=[css])


def side_by_side(*objects: Any, least_px: int = 420) -> pn.Column:
    """Cards of equal width and height beside one another, as many as fit with `least_px` each."""
    # Panel puts a button into every column, without height, which in a grid would have a row of its own.
    css = (
        f":host {{ display: grid !important; gap: 14px; {_columns_css(least_px)} }}"
        ".scroll-button { display: none !important; }"
    )
    return pn.Column(*objects, sizing_mode="stretch_width", margin=0, stylesheets=[css])


def _columns_css(least_px: int) -> str:
    return f"grid-template-columns: repeat(auto-fit, minmax(min(100%, {least_px}px), 1fr)) !important;"


def figures(items: Iterable[tuple[str, str, str]]) -> Markup:
    """Key figures: what, how much, and a remark."""
    boxes = Markup("").join(
        Markup('<div class="figure"><span>{}</span><b>{}</b><span>{}</span></div>').format(*item)
        for item in items
    )
    return Markup('<div class="figures">{}</div>').format(boxes)


def pairs(items: Iterable[tuple[str, Markup | str]]) -> Markup:
    """Names and values in two columns."""
    lines = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(*item) for item in items)
    return Markup('<dl class="pairs">{}</dl>').format(lines)


def empty(what: str, way_out: str) -> Markup:
    """What is not there, and what to do about it."""
    return Markup('<div class="empty"><b>{}</b><span class="muted">{}</span></div>').format(what, way_out)


def problem(sentence: str) -> Markup:
    """An error as a sentence."""
    return Markup('<div class="problem" role="alert">{}</div>').format(plain(sentence))


def drawing(element: Any) -> pn.pane.HoloViews:
    """An element in a page, as wide as its card."""
    return pn.pane.HoloViews(element, sizing_mode="stretch_width", margin=0, linked_axes=False)


class Drawings:
    """Figures that wait until the page is there: one is drawn a tick, oldest first.

    Words and tables are painted at once, a figure takes some tenths of a second. Whatever changes meanwhile is drawn
    once, and never so often that drawing takes more than a quarter of the time.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Callable[[], None]] = {}
        self._rest_until = 0.0

    def ask(self, name: Hashable, draw: Callable[[], None]) -> None:
        """Draw the figure of that name when it is its turn; what waits under it is forgotten."""
        self._waiting[name] = draw

    def forget(self) -> None:
        """Nothing waits any more: the figures have gone."""
        self._waiting.clear()

    def tick(self) -> None:
        """Draw one, if one waits and enough time has passed since the last round."""
        began = time.monotonic()
        if not self._waiting or began < self._rest_until:
            return
        self._waiting.pop(next(iter(self._waiting)))()
        if not self._waiting:
            self._rest_until = time.monotonic() + 3 * (time.monotonic() - began)
