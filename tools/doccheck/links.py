"""Links lead somewhere: wikilinks to a note and its heading, relative links to a file and its anchor, images to a file.

A wikilink names a note of the vault by its name alone, so names must be unique. Links with a scheme (https:) are left
alone: nothing here asks the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from doccheck.pages import Finding, Page, plain_heading, read_page

VAULT = "obsidian"


def check_links(root: Path, pages: Sequence[Page]) -> Iterator[Finding]:
    """One sentence for each link, wikilink and image that leads nowhere, and for notes of one name."""
    notes: dict[str, Page] = {}
    for page in pages:
        if page.path.startswith(f"{VAULT}/"):
            if page.name.lower() in notes:
                other = notes[page.name.lower()].path
                yield page.find(1, f"a note's name must be its own, {other} has it too; rename one")
            notes[page.name.lower()] = page
    for page in pages:
        for section in page.sections:
            for link in section.wikilinks:
                if says := _wikilink(notes, page, link.text):
                    yield page.find(link.line, says)
            for link in section.links:
                if says := _link(root, page, link.text):
                    yield page.find(link.line, says)
            for image in section.images:
                target = _target(root, page, image.text)
                if target is not None and not (target.is_file() and target.stat().st_size):
                    yield page.find(
                        image.line, f"an image must be there, {image.text} is not; draw it or drop it"
                    )


def _wikilink(notes: dict[str, Page], page: Page, text: str) -> str | None:
    name, _, heading = text.partition("#")
    note = notes.get(name.strip().lower()) if name.strip() else page
    if note is None:
        return f"a wikilink must name a note, [[{text}]] names none; mend the name or write the note"
    if heading and plain_heading(heading) not in note.anchors():
        return f"a wikilink's heading must be there, {note.path} has no {heading!r}; mend the link"
    return None


def _target(root: Path, page: Page, text: str) -> Path | None:
    """The file that a relative link means; None for a link that leaves the checkout by a scheme."""
    address = urlsplit(text)
    if address.scheme or address.netloc:
        return None
    path = unquote(address.path)
    return (root / page.path).parent / path if path else root / page.path


def _link(root: Path, page: Page, text: str) -> str | None:
    target = _target(root, page, text)
    if target is None:
        return None
    if not target.exists():
        return f"a link must lead to a file, {text} leads to none; mend the path"
    if not target.resolve().is_relative_to(root.resolve()):
        return f"a link stays in the checkout, {text} leaves it; restate what is there"
    anchor = unquote(urlsplit(text).fragment)
    if anchor and target.suffix == ".md" and anchor.lower() not in read_page(root, target).anchors():
        return f"a link's anchor must be a heading, {text} names none; mend the anchor"
    return None
