"""Taking away what is shown: the data as CSV or parquet, a chart as PNG or SVG, all made on this machine.

Data are written by the server when they are asked for. A chart is drawn once more by the browser that shows it, with
its title and the names of its runs, on the ground of the page's theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import panel as pn
import panel_material_ui as pmui
import param
import polars as pl
from panel.custom import JSComponent

_WRITERS: dict[str, Callable[[pl.DataFrame, io.BytesIO], object]] = {
    "csv": lambda frame, to: frame.write_csv(to),
    "parquet": lambda frame, to: frame.write_parquet(to),
}
_BUTTON = {"size": "small", "variant": "outlined", "color": "default", "margin": 0, "width": None}


def file_name(*parts: str) -> str:
    """A name of a file that says what is in it: `megacontext-demo+second-swap_rate`."""
    bare = (re.sub(r"[^A-Za-z0-9.+_-]+", "_", part).strip("._")[:80] for part in parts)
    return "-".join(("megacontext", *(part for part in bare if part)))


def data_buttons(frame: Callable[[], pl.DataFrame], name: Callable[[], str]) -> list[pn.viewable.Viewable]:
    """Buttons that hand out the frame of the moment as CSV and as parquet."""

    def button(kind: str, words: str) -> pmui.FileDownload:
        def written() -> io.BytesIO:
            made.filename = f"{name()}.{kind}"
            to = io.BytesIO()
            _WRITERS[kind](frame(), to)
            to.seek(0)
            return to

        made = pmui.FileDownload(
            callback=written,
            filename=f"{name()}.{kind}",
            label=words,
            embed=False,
            auto=True,
            icon=None,
            **_BUTTON,
        )
        return made

    return [button("csv", "CSV"), button("parquet", "Parquet")]


def chart_button(kind: str, save: Callable[[str], None]) -> pmui.Button:
    """A button that has a chart saved as `kind`, png or svg."""
    button = pmui.Button(label=kind.upper(), **_BUTTON)
    button.on_click(lambda _: save(kind))
    return button


class ChartSaver(JSComponent):
    """Nothing to be seen: the part of the page that saves its charts."""

    job = param.Dict(default={}, doc="the chart to save; one that differs is saved at once")

    _esm = (Path(__file__).parent / "save_chart.js").read_text(encoding="utf-8")

    def save(self, kind: str, figure: str, title: str, chips: list[tuple[str, str]], file: str) -> None:
        """Save the figure of that name as `kind`, png or svg, under a title and the lines' names and colours."""
        self.job = {
            "kind": kind, "figure": figure, "title": title, "chips": [list(chip) for chip in chips], "file": file,
            # Saved twice is asked for twice.
            "number": self.job.get("number", 0) + 1,
        }  # fmt: skip
