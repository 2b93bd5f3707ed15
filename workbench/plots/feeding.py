"""Plots that are drawn once and then fed: new rows go into the sources of a figure, and nothing is built again.

HoloViews takes a large part of a second to bring a plot of several elements up to date, a message to the page a
hundredth. A plot that is stepped through says which frame each of its parts is drawn from, and takes other rows of the
same columns later. Deliberately ignorant of what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Columns = Mapping[str, Any]
"""Of a source: name to values."""


class Feed:
    """The parts of one drawn plot, by name. `part` is a hook for the element of that name."""

    def __init__(self) -> None:
        self._sources: dict[str, Any] = {}

    def part(self, name: str) -> Any:
        """A HoloViews hook that remembers where an element's rows are."""

        def remember(plot: Any, element: Any) -> None:
            self._sources[name] = plot.handles["source"]

        return remember

    def give(self, **parts: Columns) -> None:
        """Other rows for parts that were drawn. Their columns are those of the source, each by its name there."""
        for name, columns in parts.items():
            source = self._sources.get(name)
            if source is not None:
                source.data = {key: columns[key] for key in source.data}


def of_rectangles(columns: Columns) -> Columns:
    """Columns x0, y0, x1, y1, colour and details as a drawn `Rectangles` calls them."""
    names = {
        "left": "x0", "bottom": "y0", "right": "x1", "top": "y1", "color": "colour", "line_color": "colour",
    }  # fmt: skip
    return dict(columns) | {there: columns[here] for there, here in names.items()}


def of_polygons(polygons: list[dict[str, Any]]) -> Columns:
    """Polygons with x, y and colour as a drawn `Polygons` calls them."""
    # Each polygon may be of several parts, each with holes: here one of one ring.
    return {
        "xs": [[[np.asarray(polygon["x"], dtype=float)]] for polygon in polygons],
        "ys": [[[np.asarray(polygon["y"], dtype=float)]] for polygon in polygons],
        "color": [polygon["colour"] for polygon in polygons],
    }


def of_image(image: np.ndarray, end: float, rows: float) -> Columns:
    """An image, its first row on top, over [0, end) and [0, rows), as a drawn `Image` has it."""
    return {"image": [image[::-1]], "x": [0.0], "y": [0.0], "dw": [end], "dh": [rows]}
