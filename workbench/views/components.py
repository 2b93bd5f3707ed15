"""Two things that Panel has no part for: a column that hears keys, and prose whose links stay in the page.

Their scripts are served with the page; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import param
from panel.custom import JSComponent

from workbench.turns import in_turn
from workbench.views.parts import CSS

KEYS = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "+", "-", "Escape")


class ColumnKeys(JSComponent):
    """Lets the column that it stands in take the focus, by Tab or by a click, and tells the keys pressed there.

    It stands beside what the keys move, and not around it: a figure inside would be measured before it is laid out.
    """

    label = param.String(doc="what it is and what keys do, for a screen reader")

    _esm = """
    const KEYS = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "+", "-", "Escape"])
    export function render({ model, el }) {
      const attach = () => {
        const column = el.getRootNode().host?.getRootNode().host
        if (!column) return setTimeout(attach, 50)
        if (column.dataset.keys) return
        column.dataset.keys = "heard"
        column.tabIndex = 0
        column.setAttribute("role", "group")
        column.setAttribute("aria-label", model.label)
        column.addEventListener("keydown", (event) => {
          if (!KEYS.has(event.key) || event.ctrlKey || event.altKey || event.metaKey) return
          event.preventDefault()
          model.send_msg(event.key)
        })
        column.addEventListener("pointerdown", () => column.focus({ preventScroll: true }))
      }
      attach()
      return document.createElement("span")
    }
    """

    def __init__(self, pressed: Callable[[str], None], **params: Any):
        super().__init__(height=0, margin=0, **params)
        self._pressed = pressed

    def _handle_msg(self, message: Any) -> None:
        if message in KEYS:
            in_turn(lambda: self._pressed(message))


class Links(JSComponent):
    """HTML whose links with `data-jump` are told instead of followed; with a modifier key they open as any link.

    Text of a run or a memory must come through `workbench.text.plain`.
    """

    html = param.String()

    _esm = """
    export function render({ model }) {
      const body = document.createElement("div")
      const show = () => { body.innerHTML = model.html }
      show()
      model.on("html", show)
      body.addEventListener("click", (event) => {
        const link = event.target.closest("a[data-jump]")
        if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return
        event.preventDefault()
        model.send_msg(link.dataset.jump)
      })
      return body
    }
    """
    _stylesheets = (CSS,)

    def __init__(self, jumped: Callable[[str], None], **params: Any):
        super().__init__(sizing_mode="stretch_width", margin=0, **params)
        self._jumped = jumped

    def _handle_msg(self, message: Any) -> None:
        if isinstance(message, str):
            in_turn(lambda: self._jumped(message))
