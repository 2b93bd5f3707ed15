"""A page of prose as what can be checked of it: headings, links, wikilinks, images, code, and blocks of words.

A page is a Markdown file, or the Markdown cells of a notebook, each at its line. Sections nest by the level of their
headings; what a section says includes what stands before the first heading of everything that it lies in, for that is
how a reader takes it: a date at the top of a note holds for all tables below it.

Knows nothing of what may be linked, run or claimed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

_WIKILINK = re.compile(r"(!?)\[\[([^\]\[|]+)(?:\|[^\]\[]*)?\]\]")


@dataclass(frozen=True)
class Finding:
    """Something that does not hold: where, and a sentence (rule, value, way out)."""

    path: str
    line: int
    says: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.says}"


@dataclass(frozen=True)
class Mention:
    """A piece of a page with the line that it stands in: a link's target, a span of code, a block of words."""

    text: str
    line: int


@dataclass
class Section:
    """A heading (level 0, no title: what stands before the first one) with what stands below it up to the next."""

    title: str
    level: int
    line: int
    parent: Section | None = None
    words: list[Mention] = field(default_factory=list)
    """Paragraphs, items of lists and headings, without code."""
    tables: list[list[Mention]] = field(default_factory=list)
    """Of each table its cells, without code."""
    code: list[Mention] = field(default_factory=list)
    """Spans of code within the words and tables."""
    fences: list[tuple[str, Mention]] = field(default_factory=list)
    """Blocks of code with their language, each at its first line of code."""
    links: list[Mention] = field(default_factory=list)
    wikilinks: list[Mention] = field(default_factory=list)
    images: list[Mention] = field(default_factory=list)

    def upwards(self) -> Iterator[Section]:
        """This section, and those that it lies in."""
        section: Section | None = self
        while section is not None:
            yield section
            section = section.parent

    @property
    def prose(self) -> str:
        """All that it says itself, code included."""
        cells = (cell.text for table in self.tables for cell in table)
        fences = (mention.text for _, mention in self.fences)
        spans = (f"`{mention.text}`" for mention in self.code)
        return "\n".join([*(mention.text for mention in self.words), *cells, *spans, *fences])


@dataclass
class Page:
    """One page, by its path from the root."""

    path: str
    sections: list[Section]

    @property
    def name(self) -> str:
        """What a wikilink calls it."""
        return Path(self.path).stem

    def find(self, line: int, says: str) -> Finding:
        return Finding(self.path, line, says)

    def anchors(self) -> set[str]:
        """The headings as GitHub's anchors and as Obsidian's."""
        titles = [section.title for section in self.sections if section.title]
        return {slug(title) for title in titles} | {plain_heading(title) for title in titles}


def slug(title: str) -> str:
    """A heading as GitHub's anchor: lower case, no punctuation, hyphens for blanks."""
    kept = re.sub(r"[^\w\- ]", "", title.lower())
    return kept.strip().replace(" ", "-")


def plain_heading(title: str) -> str:
    """A heading as a wikilink names it, whatever its case and blanks."""
    return " ".join(title.replace("`", "").split()).lower()


def read_page(root: Path, path: Path) -> Page:
    """The page in a Markdown file or in a notebook's Markdown cells."""
    text = path.read_text(encoding="utf-8")
    pieces = _cells(text) if path.suffix == ".py" else [(0, text)]
    sections: list[Section] = [Section("", 0, 1)]
    for first_line, piece in pieces:
        _read(piece, first_line, sections)
    return Page(path.relative_to(root).as_posix(), sections)


def _cells(source: str) -> list[tuple[int, str]]:
    """First line and text of every `mo.md(...)`. What an f-string puts in is a blank."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "mo.md" and node.args):
            continue
        given = node.args[0]
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            text = given.value
        elif isinstance(given, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else " " for part in given.values
            )
        else:
            continue
        # Cells are indented as the code around them is, and Markdown would take that for blocks of code.
        found.append((given.lineno - 1, "\n".join(line.strip() for line in text.split("\n"))))
    return sorted(found)


def _read(text: str, first_line: int, sections: list[Section]) -> None:
    source = text.split("\n")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    table: list[Mention] | None = None
    start = 0  # only rows and blocks have a map, their parts stand in it
    for place, token in enumerate(tokens):
        if token.map is not None:
            start = token.map[0]
        line = first_line + start + 1
        section = sections[-1]
        if token.type == "heading_open":
            level, title = int(token.tag[1]), tokens[place + 1].content
            parent = section
            while parent.level >= level and parent.parent is not None:
                parent = parent.parent
            sections.append(Section(title, level, line, parent))
        elif token.type == "table_open":
            section.tables.append(table := [])
        elif token.type == "table_close":
            table = None
        elif token.type in ("fence", "code_block"):
            inner = line + 1 if token.type == "fence" else line
            section.fences.append((token.info.strip(), Mention(token.content, inner)))
        elif token.type == "inline":
            end = token.map[1] if token.map is not None else start + 1
            _inline(token, source[start:end], line, section, section.words if table is None else table)


def _inline(token: Token, source: list[str], line: int, section: Section, words: list[Mention]) -> None:
    def at(text: str) -> int:
        """The line of a block in which `text` begins, or its first one."""
        first = text.split("\n")[0].split(" ")[0]
        return line + next((row for row, there in enumerate(source) if first in there), 0)

    said = []
    for part in token.children or ():
        if part.type == "text":
            said.append(part.content)
        elif part.type in ("softbreak", "hardbreak"):
            said.append("\n")
        elif part.type == "code_inline":
            said.append(" ")
            section.code.append(Mention(part.content, at(part.content)))
        elif part.type == "link_open":
            section.links.append(Mention(target := str(part.attrs["href"]), at(target)))
        elif part.type == "image":
            section.images.append(Mention(target := str(part.attrs["src"]), at(target)))
    text = "".join(said)
    words.append(Mention(text, line))
    for found in _WIKILINK.finditer(text):
        target = Mention(found[2].replace("\n", " "), at(f"[[{found[2]}"))
        (section.images if found[1] else section.wikilinks).append(target)
