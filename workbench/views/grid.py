"""A table whose rows and cells can be chosen: sorted by its heads, paged by whoever fills it, reached by keyboard.

Rows come as plain values and are drawn as text, whatever they hold. The grid knows no frame: who fills it sorts,
filters and cuts, and hears what is clicked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import param
from panel.custom import JSComponent

from workbench.palette import BAD, FONT, GOOD, MONOSPACE
from workbench.text import MAX_CHARACTERS, visible
from workbench.turns import in_turn
from workbench.views.parts import HAIRLINE

GRID_CSS = f"""
{HAIRLINE}
:host {{ font-family: {FONT}; font-size: 13px; color: var(--panel-on-background-color); }}
.scroll {{ overflow: auto; max-width: 100%; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; font-weight: 500; font-size: 12px; vertical-align: bottom; color:
  color-mix(in srgb, var(--panel-on-background-color) 68%, transparent); }}
thead th {{ position: sticky; top: 0; z-index: 1; background: var(--panel-surface-color); }}
th, td {{ padding: 6px 14px 6px 0; border-bottom: 1px solid var(--hairline); white-space: nowrap;
  vertical-align: top; }}
th:last-child, td:last-child {{ padding-right: 4px; }}
td.wide {{ white-space: normal; overflow-wrap: anywhere; min-width: 110px; max-width: 480px; }}
tbody tr:last-child td {{ border-bottom: 0; }}
.number {{ text-align: right; }}
th.choice, td.choice {{ width: 18px; padding-right: 12px; }}
td.choice input {{ width: 15px; height: 15px; margin: 2px 0 0; cursor: pointer; }}
td.choice input:disabled {{ opacity: .3; cursor: not-allowed; }}
tr.can {{ cursor: pointer; }}
tr.can:hover td {{ background: color-mix(in srgb, var(--panel-on-background-color) 5%, transparent); }}
tr.current td {{ background: color-mix(in srgb, var(--panel-primary-color) 14%, transparent); }}
tr.marked td {{ font-weight: 600; }}
button {{ font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }}
button.link {{ text-decoration: underline; text-decoration-color: var(--hairline); text-underline-offset: 3px; }}
button.link:hover, button.by:hover {{ color: var(--panel-primary-color); }}
button:focus-visible, tr:focus-visible, input:focus-visible {{ outline: 2px solid var(--panel-primary-color);
  outline-offset: 1px; }}
.arrow {{ font-size: 9px; margin-left: 4px; }}
.under {{ font-size: 12px; opacity: .68; max-width: 34ch; overflow: hidden; text-overflow: ellipsis;
  font-weight: 400; }}
.under.whole {{ white-space: normal; overflow-wrap: anywhere; }}
.under.bad {{ color: {BAD}; opacity: 1; white-space: normal; overflow-wrap: anywhere; }}
.chip {{ display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }}
.good {{ color: {GOOD}; font-weight: 600; }}
.bad {{ color: {BAD}; font-weight: 600; }}
.muted {{ opacity: .68; }}
.mono {{ font-family: {MONOSPACE}; font-size: 12px; }}
.nothing {{ padding: 20px 8px; text-align: center; opacity: .68; }}
.nothing:empty {{ display: none; }}
.unseen {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }}
"""


class Grid(JSComponent):
    """A table.

    `columns` are dictionaries: label, and where they apply number, wide, tip, and sort, the name to sort by. `rows` are
    dictionaries: key, cells, and where they apply current, marked, told, chosen (None: may not be), colour. A cell is
    text or a dictionary: text, under, chip, tone, told. What is `told` is given to `heard` when it is clicked; so are
    {"sort": ORDER} and {"choose": KEY, "on": BOOL}.
    """

    columns = param.List(default=[])
    rows = param.List(default=[])
    order = param.String(default="", doc="the name that rows are sorted by, behind a minus for descending")
    choosable = param.Boolean(default=False, doc="whether rows have a box to tick")
    label = param.String(default="", doc="what the table is of, for those who hear it")
    most_px = param.Integer(default=0, doc="height beyond which rows scroll under their head; 0: never")
    nothing = param.String(default="", doc="what stands there instead of no rows")

    _esm = (Path(__file__).parent / "grid.js").read_text(encoding="utf-8")
    _stylesheets = [GRID_CSS]  # noqa: RUF012  (Panel reads it from the class)

    def __init__(self, heard: Callable[[dict[str, Any]], None] | None = None, **options: Any):
        self._heard = heard
        super().__init__(**({"sizing_mode": "stretch_width", "margin": 0} | options))

    def show(self, **shown: Any) -> None:
        """Show these columns, rows, order or words; nothing is sent for what stands there already."""
        changed = {name: value for name, value in shown.items() if value != getattr(self, name)}
        if changed:
            self.param.update(**changed)

    def _handle_msg(self, data: Any) -> None:
        if self._heard is not None and isinstance(data, dict):
            heard = self._heard
            in_turn(lambda: heard(data))


def text_cell(text: object, characters: int = 200, **how: Any) -> dict[str, Any]:
    """A cell with text of a run: what would not show made visible, what is too long cut."""
    shown = "–" if text is None else str(text)
    cut = shown[: min(characters, MAX_CHARACTERS)]
    return {"text": visible(cut) + (" …" if len(shown) > len(cut) else "")} | how
