"""Figures say where they come from: which command made them, on what device, and when.

A figure is a number with a decimal point, outside of code, that is no version and no paper's number. Held to the rule
are, in the vault and on the front pages, all tables with a cell that begins with a figure, and in the notes on results
every word. A figure is cited where its section, or what stands before the first heading of a section that it lies in,
has

- a command, or the admission that there is none to repeat ("by hand", "a script that is not kept"),
- a device (CPU, GPU, cores or a processor's name), and
- a date (2026-11-25).

A wikilink there lends device and date of the note that it leads to; one in the section itself also counts as the
command, if that note has one: whoever follows it finds the figure with its source. "The same run", "the same machine"
lends what the note said before. That the figure is right, nothing here knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from doccheck.commands import is_command
from doccheck.pages import Finding, Page, Section

RESULTS = ("obsidian/results/", "obsidian/operations/Performance.md")
"""Where every word is held to it."""
_SOFTWARE = re.compile(r"(Python|torch|transformers|triton|Linux|LMDB|kvpress|version|>=)\s+v?\d+(\.\d+)+")
_FIGURE = re.compile(r"(?<![\w./\-])(?!\d{4}\.\d{4,5})\d*\.\d+(?![\w]|\.\d)")
_BEGINS = re.compile(r"\W*\d*\.?\d")
_THE_SAME = re.compile(r"[Ss]ame (run|machine|device|day|command)")
_DEVICE = re.compile(r"\b(CPU|GPU|cores?|processor|EPYC|Xeon|H100|H200)\b")
_DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")
_BENCH = re.compile(r"\S*bench\S*\.py")
_NO_COMMAND = re.compile(r"by hand|not kept|[Dd]evelopment runs?|That is arithmetic")


def check_figures(root: Path, pages: Sequence[Page]) -> Iterator[Finding]:
    """One sentence for each section with figures that lack a command, a device or a date."""
    notes = {page.name.lower(): page for page in pages}
    for page in pages:
        everywhere = page.path.startswith(RESULTS)
        for section in page.sections:
            line = next(_figures(section, everywhere), None)
            if line is None:
                continue
            if lacking := _lacking(page, section, notes):
                yield page.find(
                    line,
                    f"figures stand beside their source, those of section {section.title!r} lack {lacking}; "
                    "name it there, or at the top of the note",
                )


def _figures(section: Section, everywhere: bool) -> Iterator[int]:
    for table in section.tables:
        yield from (cell.line for cell in table if _BEGINS.match(cell.text) and has_figure(cell.text))
    if everywhere:
        yield from (words.line for words in section.words if has_figure(words.text))


def has_figure(text: str) -> bool:
    """Whether a text states a measured number."""
    return _FIGURE.search(_SOFTWARE.sub(" ", text)) is not None


def _lacking(page: Page, section: Section, notes: dict[str, Page]) -> str:
    """What of command, device and date a section's figures lack, in words; empty where nothing lacks."""
    around = list(section.upwards())
    if _THE_SAME.search(section.prose):
        around += page.sections[: page.sections.index(section)]
    linked = [note for link in section.wikilinks if (note := _note(link.text, notes))]
    lent = [note for part in around for link in part.wikilinks if (note := _note(link.text, notes))]
    words = "\n".join(part.prose for part in [*around, *(part for note in lent for part in note.sections)])
    lacking = []
    if not any(map(_has_command, [*around, *(part for note in linked for part in note.sections)])):
        lacking.append("a command")
    if not _DEVICE.search(words):
        lacking.append("a device")
    if not _DATE.search(words):
        lacking.append("a date")
    return ", ".join(lacking)


def _note(link: str, notes: dict[str, Page]) -> Page | None:
    return notes.get(link.partition("#")[0].strip().lower())


def _has_command(section: Section) -> bool:
    """Whether a section names what made its figures: a command, or a script; or admits that it was neither."""
    spans = [code.text for code in section.code]
    spans += [line for _, block in section.fences for line in block.text.split("\n")]
    made = any(is_command(text) or _BENCH.fullmatch(text) for text in spans)
    return made or _NO_COMMAND.search(section.prose) is not None
