"""The control of the refocus step: a slider, a button that plays, its speed, and the keys that do the same.

It writes the step to the selection and is told by its view where that stands. The steps that playing passes through
are no places to come back to: the address takes the one where it stops. Space plays and stops, the arrows step,
Home and End go to the first and the last. Deliberately ignorant of what a step looks like.
"""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.state import Selection
from workbench.turns import in_one_go
from workbench.views.keys import Keys

SPEEDS = {"1 step/s": 1.0, "2 steps/s": 2.0, "4 steps/s": 4.0}
PLAY, STOP = "▶ Play", "❚❚ Stop"
_KEYS = [" ", "ArrowLeft", "ArrowRight", "Home", "End"]
_CSS = """
:host { display: flex !important; flex-flow: row wrap !important; gap: 6px 14px; align-items: center; }
"""


class Stepper:
    """For one view, of the steps from 0 to a last one."""

    def __init__(self, selection: Selection, view: str):
        self._selection, self._view = selection, view
        self._last, self._playing = 0, False
        self._callback: Any = None
        # Widths by style: Panel adds up those of parameters, and would not let the row wrap on a narrow page.
        self._slider = pmui.IntSlider(
            label="Refocus step", start=0, end=1, value=0, sizing_mode="stretch_width", margin=(0, 10),
            styles={"flex": "1 1 220px"},
        )  # fmt: skip
        self._play = pmui.Button(
            label=PLAY, variant="outlined", size="small", margin=0, styles={"width": "104px"},
            description="Space plays, ← and → step, Home and End go to the ends",
        )  # fmt: skip
        self._speed = pmui.Select(
            label="Speed",
            options=SPEEDS,
            value=2.0,
            size="small",
            margin=0,
            width=None,
            styles={"width": "118px"},
        )
        self._slider.param.watch(self._slid, "value")
        self._play.on_click(lambda event: self.toggle())
        self._speed.param.watch(lambda event: self._set_pace(), "value")

    def panel(self) -> pn.viewable.Viewable:
        """Slider, button and speed beside one another."""
        return pn.Row(
            self._play, self._speed, self._slider, Keys(_KEYS, self.press),
            sizing_mode="stretch_width", margin=0, stylesheets=[_CSS],
        )  # fmt: skip

    @property
    def playing(self) -> bool:
        """Whether it moves on by itself."""
        return self._playing

    def show(self, step: int, last: int) -> None:
        """The steps go to `last`, and stand at `step`."""
        self._last = last
        self._slider.param.update(end=max(last, 1), disabled=last == 0, value=step)
        self._play.disabled = last == 0
        if last == 0:
            self._stop()

    def press(self, key: str) -> None:
        """Do what a key stands for."""
        at = self._slider.value
        if key == " ":
            self.toggle()
        else:
            wanted = {"ArrowLeft": at - 1, "ArrowRight": at + 1, "Home": 0, "End": self._last}[key]
            self._go(min(max(wanted, 0), self._last))

    def toggle(self) -> None:
        """Play from here, from the start where this is the end; or stop."""
        if self._playing:
            self._stop()
        elif self._last > 0:
            self._playing = self._selection.passing = True
            self._play.label = STOP
            if self._slider.value >= self._last:
                self._go(0)
            self._set_pace()

    def advance(self) -> None:
        """One step on; at the last one, or where another view is looked at, stop."""
        with in_one_go():
            if not self._playing or self._selection.view != self._view or self._slider.value >= self._last:
                self._stop()
            else:
                self._go(self._slider.value + 1)
                if self._slider.value >= self._last:
                    self._stop()

    def _set_pace(self) -> None:
        if self._callback is not None:
            self._callback.stop()
            self._callback = None
        if self._playing and pn.state.curdoc is not None:
            self._callback = pn.state.add_periodic_callback(
                self.advance, period=int(1000 / self._speed.value)
            )

    def _stop(self) -> None:
        if self._playing:
            self._playing = self._selection.passing = False
        self._play.label = PLAY
        self._set_pace()

    def _slid(self, event: Any) -> None:
        self._go(event.new)

    def _go(self, step: int) -> None:
        # A selection without a step stands at the last one: going there needs none to be kept.
        chosen = self._selection.step if self._selection.step >= 0 else self._last
        self._slider.value = step
        if step != chosen:
            self._selection.step = step
