"""Words and numbers for a page: everything from a run is untrusted and is shown as text, never run as markup.

`plain` is the one door through which text of a run enters HTML: escaped, control characters and marks that turn the
reading direction made visible, cut where it gets too long. Pages and reports share the fragments below; their CSS
lives with whoever shows them.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from workbench.palette import arm_colour, class_colour, level_colour, level_label

MAX_CHARACTERS = 2_000


def plain(text: object, max_characters: int = MAX_CHARACTERS) -> Markup:
    """Text of a run as HTML that shows it, isolated from the reading direction of what stands around it."""
    shown = "" if text is None else str(text)
    cut = "" if len(shown) <= max_characters else f" … ({len(shown) - max_characters:,} more characters)"
    return Markup("<bdi>{}</bdi>{}").format(visible(shown[:max_characters]), cut)


def visible(text: str) -> str:
    """Text with characters that would not show, or would reorder others, replaced by their code points."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
        else f"⟨{ord(character):04X}⟩"
        for character in text
    )  # fmt: skip


def percent(value: float | None, digits: int = 1) -> str:
    """0.943 as `94.3 %`; a dash for nothing."""
    return "–" if _missing(value) else f"{100 * value:.{digits}f} %"


def count(value: float | None) -> str:
    """12345 as `12,345`; a dash for nothing."""
    return "–" if _missing(value) else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes as `2.1 MB`; a dash for nothing."""
    if _missing(value):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000 or unit == "GB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError("the loop returns")


def duration(seconds: float | None) -> str:
    """Seconds as `2 min 31 s`; a dash for nothing."""
    if _missing(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def level_legend(lods: Iterable[int], block_size: int) -> Markup:
    """Chips that say which colour is which level."""
    return _legend((level_colour(lod), level_label(lod, block_size)) for lod in sorted(set(lods)))


def arm_legend(arms: Iterable[str]) -> Markup:
    """Chips that say which colour is which arm."""
    return _legend((arm_colour(arm), arm) for arm in arms)


def series_legend(names: Sequence[str], colours: Sequence[str]) -> Markup:
    """Chips for the lines of a panel, in their order."""
    return _legend((colours[place % len(colours)], name) for place, name in enumerate(names))


def class_legend(classes: Mapping[int, str], most: int = 12) -> Markup:
    """Chips for numbered classes, the first of many."""
    chips = [(class_colour(number), name) for number, name in list(classes.items())[:most]]
    more = len(classes) - most
    return _legend(chips) + (
        Markup('<p class="muted">and {} more in sight</p>').format(count(more)) if more > 0 else Markup("")
    )


def scale_legend(colours: Sequence[str], low: str, high: str, what: str) -> Markup:
    """A strip of colours from the lowest value to the highest, and what the values are."""
    stops = ", ".join(colours[:: max(len(colours) // 16, 1)])
    return Markup(
        '<div class="scale"><span>{}</span><i style="background:linear-gradient(90deg, {})"></i><span>{}</span>'
        '<span class="muted">{}</span></div>'
    ).format(low, stops, high, what)


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], marked: Iterable[int] = (), first: int = 1
) -> Markup:
    """An HTML table; cells are escaped, the columns from `first` on hold numbers, rows in `marked` stand out."""
    marked = set(marked)

    def cells(values: Sequence[object], tag: str) -> Markup:
        kinds = ("" if place < first else Markup(' class="number"') for place in range(len(values)))
        return Markup("").join(
            Markup("<{}{}>{}</{}>").format(Markup(tag), kind, value, Markup(tag))
            for kind, value in zip(kinds, values, strict=True)
        )

    body = Markup("").join(
        Markup("<tr{}>{}</tr>").format(Markup(' class="marked"') if at in marked else "", cells(row, "td"))
        for at, row in enumerate(rows)
    )
    return Markup(
        '<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(cells(head, "th"), body)


def arm_name(arm: str) -> Markup:
    """An arm with its colour before it."""
    return Markup('<i class="chip" style="background:{}"></i>{}').format(arm_colour(arm), plain(arm, 60))


def verdict(correct: bool | None) -> Markup:
    """A word with its colour: never the colour alone."""
    if correct is None:
        return Markup("–")
    return (
        Markup('<span class="good">✓ right</span>') if correct else Markup('<span class="bad">✗ wrong</span>')
    )


def _legend(chips: Iterable[tuple[str, str]]) -> Markup:
    items = Markup("").join(
        Markup('<span><i class="chip" style="background:{}"></i>{}</span>').format(colour, plain(name, 60))
        for colour, name in chips
    )
    return Markup('<div class="legend">{}</div>').format(items)


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)
