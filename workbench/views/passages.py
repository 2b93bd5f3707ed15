"""A working context as a text to be read: raw tokens word for word, gists as folded lines that open on a click.

A component of its own, because what is opened is fetched when it is opened and put into its place, without the rest
being drawn again, and because a click on a place must select a node without leaving the page. All text that is handed
in is HTML made by `workbench.text`; the component only puts it where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import param
from panel.custom import JSComponent

from workbench.palette import MONOSPACE, NEUTRAL
from workbench.turns import in_turn
from workbench.views.parts import CSS

_CSS = (
    CSS
    + f"""
.tools {{ display: flex; gap: 8px 16px; align-items: center; flex-wrap: wrap; margin-bottom: 10px; font-size: 13px; }}
.tools button {{ font: inherit; color: inherit; background: none; border: 1px solid var(--hairline); border-radius: 6px;
  padding: 4px 12px; cursor: pointer; }}
.tools button:hover, .fold:hover {{ background: color-mix(in srgb, var(--panel-on-background-color) 7%, transparent); }}
.tools label {{ display: inline-flex; gap: 6px; align-items: center; cursor: pointer; }}
.context {{ max-height: 70vh; overflow: auto; border: 1px solid var(--hairline); border-radius: 8px; padding: 10px 14px;
  font-size: 14px; line-height: 1.6; overflow-wrap: anywhere; }}
.where {{ font-size: 12px; opacity: .72; margin: 10px 0 2px; user-select: none; }}
.where a, .gist a {{ color: inherit; text-decoration: underline; text-underline-offset: 2px;
  text-decoration-color: {NEUTRAL}; }}
.words {{ white-space: pre-wrap; border-left: 3px solid var(--level); padding: 2px 0 2px 12px; }}
.asked .words {{ border-left-style: double; }}
.context.shaded [data-score] {{ background: color-mix(in srgb, var(--tint) var(--share), transparent); }}
.gist {{ font-size: 13px; }}
.gist > .line {{ display: flex; gap: 10px; align-items: baseline; }}
.fold {{ all: unset; flex: 1 1 auto; min-width: 0; display: flex; gap: 8px; align-items: baseline; cursor: pointer;
  border-radius: 4px; padding: 1px 4px; }}
.fold:focus-visible, .tools button:focus-visible, a:focus-visible {{ outline: 2px solid {NEUTRAL};
  outline-offset: 1px; }}
.fold::before {{ content: "▸"; opacity: .6; font-size: 11px; flex: none; }}
.fold[aria-expanded=true]::before {{ content: "▾"; }}
.fold b {{ flex: none; font-weight: 600; }}
.fold .beginning {{ flex: 1 1 0; min-width: 0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
  opacity: .8; font-style: italic; }}
.gist > .line > a {{ flex: none; font-size: 12px; opacity: .72; font-variant-numeric: tabular-nums; }}
.inside {{ margin: 2px 0 8px 10px; padding-left: 14px; border-left: 3px dotted var(--level); }}
.inside .words {{ border: 0; padding-left: 0; opacity: .85; }}
.inside > p {{ font-size: 12px; opacity: .72; }}
.source {{ opacity: .72; }}
code {{ font-family: {MONOSPACE}; }}
@media (max-width: 600px) {{
  .gist > .line {{ flex-wrap: wrap; gap: 0 10px; }}
  .gist > .line > a {{ margin-left: 22px; }}
}}
"""
)


class Passages(JSComponent):
    """Shows `markup`; asks `opened(lod, index)` for the inside of a gist, and tells `went(node)` of a place."""

    markup = param.String(doc="HTML of the context")
    text = param.String(doc="what the copy button copies")

    _esm = """
    export function render({model, el}) {
      const box = document.createElement('div')
      const tools = document.createElement('div')
      tools.className = 'tools'
      const copy = document.createElement('button')
      copy.type = 'button'
      copy.textContent = 'Copy the exact text'
      const label = document.createElement('label')
      const shade = document.createElement('input')
      shade.type = 'checkbox'
      label.append(shade, 'Shade by score')
      const status = document.createElement('span')
      status.setAttribute('role', 'status')
      tools.append(copy, label, status)
      box.className = 'context'
      box.tabIndex = 0
      el.style.width = '100%'
      el.append(tools, box)
      const show = () => { box.innerHTML = model.markup }
      show()
      model.on('markup', show)
      shade.addEventListener('change', () => box.classList.toggle('shaded', shade.checked))
      copy.addEventListener('click', async () => {
        try {
          await navigator.clipboard.writeText(model.text)
        } catch {
          const area = document.createElement('textarea')
          area.value = model.text
          document.body.append(area)
          area.select()
          document.execCommand('copy')
          area.remove()
        }
        status.textContent = `Copied ${model.text.length.toLocaleString('en')} characters.`
        setTimeout(() => { status.textContent = '' }, 3000)
      })
      box.addEventListener('click', (event) => {
        const link = event.target.closest('a[data-go]')
        if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
          event.preventDefault()
          model.send_msg({go: link.dataset.go})
          return
        }
        const fold = event.target.closest('.fold')
        if (!fold) return
        const inside = fold.closest('.gist').querySelector(':scope > .inside')
        const open = fold.getAttribute('aria-expanded') !== 'true'
        fold.setAttribute('aria-expanded', String(open))
        inside.hidden = !open
        if (open && !inside.childNodes.length) model.send_msg({open: fold.dataset.node})
      })
      model.on('msg:custom', (message) => {
        for (const inside of box.querySelectorAll(`[data-inside="${message.node}"]`)) inside.innerHTML = message.markup
      })
    }
    """

    def __init__(self, opened: Callable[[int, int], str], went: Callable[[str], None]):
        super().__init__(stylesheets=[_CSS], sizing_mode="stretch_width", margin=0)
        self._opened, self._went = opened, went

    def _handle_msg(self, msg: Any) -> None:
        if not isinstance(msg, dict):
            return
        if (node := _node(msg.get("open"))) is not None:
            lod, index = node
            self._send_msg({"node": f"{lod}:{index}", "markup": self._opened(lod, index)})
        elif _node(msg.get("go")) is not None:
            in_turn(lambda: self._went(str(msg["go"])))


def _node(name: object) -> tuple[int, int] | None:
    """Level and index out of LOD:INDEX; None for anything else that a page may send."""
    lod, colon, index = str(name).partition(":")
    if not (colon and lod.isdecimal() and index.isdecimal() and len(lod) < 3 and len(index) < 16):
        return None
    return int(lod), int(index)
