"""Every colour of the workbench, in one place: levels of detail, arms, and the two themes.

Levels alternate light and dark along the scale from amber (raw tokens) to grey, so that neighbours stay apart for
every kind of colour vision and in print; a test simulates that. Arms always carry their name and a marker too, for
eight hues are more than anybody tells apart. Deliberately ignorant of plots and pages.
"""

from __future__ import annotations

LEVELS = ("#FFC53D", "#E4572E", "#9C2A86", "#9C8CFF", "#2257B8", "#4FD1C5", "#6E6A78")
"""Colour of LOD 0 (raw tokens), 1, 2 and on; seven levels of 32 reach beyond a thousand million tokens."""

ARMS = {
    "none": "#9AA3B2",
    "recency": "#6DB7EA",
    "sinks+recency": "#2F6FD6",
    "random": "#B59BD0",
    "bm25": "#16B583",
    "lensnet": "#F0A81E",
    "lensnet+bm25": "#E4572E",
    "oracle": "#C04A93",
}
"""Colour of each arm, from floor to ceiling; the order is the order of tables and legends."""

MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "star", "hex", "plus")
"""Marker of the arm at the same place."""

SERIES = ("#4C8DFF", "#F0A81E", "#16B583", "#E4572E", "#9C8CFF", "#C04A93", "#6DB7EA", "#9AA3B2")
"""Curves that are neither levels nor arms."""

SCALE = "magma"
"""Colour map of similarities: even steps of lightness, safe for colour-blind eyes."""

DIVERGING = ("#2F6FD6", "#6E8FC9", "#8A8F99", "#D09A4E", "#F0A81E")
"""Colours of values with a middle: blue below it, amber above; apart for every kind of colour vision."""
CHOSEN = "#4C8DFF"
"""Outline of what is selected: stands out from SCALE and from both grounds."""

NEUTRAL = "#808998"
"""Rules and marks inside plots: readable on the light and on the dark ground."""
GOOD, BAD = "#16B583", "#E4572E"
NEEDED = "#16B583"
"""Where the answer stands."""

FONT = 'Inter, system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", Arial, sans-serif'
MONOSPACE = 'ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace'

DARK = {
    "ground": "#0F1217",
    "surface": "#161A21",
    "text": "#E8EBF0",
    "muted": "#9BA4B2",
    "line": "#2A303A",
    "accent": "#F0A81E",
}
LIGHT = {
    "ground": "#F5F6F8",
    "surface": "#FFFFFF",
    "text": "#171B22",
    "muted": "#5A6473",
    "line": "#DFE3E9",
    "accent": "#B4540A",
}


def level_colour(lod: int) -> str:
    """Colour of a level; levels beyond the last known one share its colour."""
    return LEVELS[min(lod, len(LEVELS) - 1)]


def level_label(lod: int, block_size: int) -> str:
    """What a level is called: `L0 · raw tokens`, `L2 · 1,024 tokens`."""
    return "L0 · raw tokens" if lod == 0 else f"L{lod} · {block_size**lod:,} tokens"


def class_colour(number: int) -> str:
    """Colour of a document or another class by its number; neighbours differ, and every ninth returns."""
    return SERIES[number % len(SERIES)]


def arm_colour(arm: str) -> str:
    """Colour of an arm; grey for one that is not known."""
    return ARMS.get(arm, NEUTRAL)


def arm_marker(arm: str) -> str:
    """Marker of an arm."""
    return dict(zip(ARMS, MARKERS, strict=True)).get(arm, "circle")


def arm_order(arms: list[str]) -> list[str]:
    """Known arms from floor to ceiling, then unknown ones by name; each once."""
    return [arm for arm in ARMS if arm in arms] + sorted(set(arms) - ARMS.keys())
