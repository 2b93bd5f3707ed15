"""Keys of the page for a view: pressed anywhere but in a control, told to the view while it is looked at.

A component without a face: Panel takes it out of the page with its view, and its listener goes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import param
from panel.custom import JSComponent

from workbench.turns import in_turn


class Keys(JSComponent):
    """Calls `pressed` with the name of each of the `wanted` keys, as KeyboardEvent.key names them."""

    wanted = param.List(default=[], item_type=str)

    _esm = """
    const CONTROL = 'input, textarea, select, button, a, summary, [contenteditable], [role=button], [role=slider], '
      + '[role=tab], [role=combobox], [role=menuitem], [role=option]'
    export function render({model, el}) {
      el.style.display = 'none'
      const listen = (event) => {
        if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return
        if (!model.wanted.includes(event.key)) return
        // The innermost element, also inside a shadow root.
        const at = event.composedPath()[0]
        if (at instanceof Element && at.closest(CONTROL)) return
        event.preventDefault()
        model.send_msg(event.key)
      }
      document.addEventListener('keydown', listen)
      model.on('remove', () => document.removeEventListener('keydown', listen))
    }
    """

    def __init__(self, wanted: list[str], pressed: Callable[[str], None]):
        super().__init__(wanted=wanted, margin=0, width=0, height=0)
        self._pressed = pressed

    def _handle_msg(self, msg: Any) -> None:
        if msg in self.wanted:
            in_turn(lambda: self._pressed(msg))
