"""Words that promise instead of saying what is, and status lines of a closed set of words.

A note says what there is. What is planned stands in plans/, or in a section that is called so (Open, What falls
short): there alone may a thing be "not yet". Each note on a plan of record, and each on a part of the architecture, has
one line

    Status: plan of record, built in part, measured in part.

of the words in STATUS, so that nobody takes a plan for a feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from doccheck.pages import Finding, Page, Section

PLANS = "obsidian/plans/"
RECORDS = "obsidian/plans/prds/"
PARTS = "obsidian/architecture/"
BUILT = ("not built", "built in part", "built")
MEASURED = ("not measured", "measured in part", "measured")
STATUS = ("plan of record", *BUILT, *MEASURED)
_OPEN = re.compile(r"\b(Open|open|falls short|What would|Next)\b")
_PROMISES = re.compile(
    r"\b(TODO|TBD|FIXME|XXX|WIP|[Cc]oming soon|[Ii]n progress|[Ww]ill be|[Nn]ot yet|(?<!as )[Ss]oon)\b"
)
_STATUS_LINE = re.compile(r"\bStatus: ([^.]+)\.")


def check_words(root: Path, pages: Sequence[Page]) -> Iterator[Finding]:
    """One sentence for each word that promises, and for each status line that is missing or of other words."""
    for page in pages:
        for section in page.sections:
            if not page.path.startswith(PLANS) and not _is_open(section):
                yield from _promises(page, section)
        if page.path.startswith((RECORDS, PARTS)):
            yield from _status(page)


def _is_open(section: Section) -> bool:
    return any(_OPEN.search(part.title) for part in section.upwards())


def _promises(page: Page, section: Section) -> Iterator[Finding]:
    for words in [*section.words, *(cell for table in section.tables for cell in table)]:
        for found in _PROMISES.finditer(words.text):
            line = words.line + words.text.count("\n", 0, found.start())
            yield page.find(
                line, f"a note says what there is, {found[0]!r} promises; say what is, or put it under Open"
            )


def _status(page: Page) -> Iterator[Finding]:
    lines = [
        (words.line, found[1])
        for section in page.sections
        for words in section.words
        for found in _STATUS_LINE.finditer(words.text)
    ]
    if len(lines) != 1:
        yield page.find(
            1, f"a note on a part or a plan has one line `Status: ...`, this one has {len(lines)}; write it"
        )
        return
    line, said = lines[0]
    given = [" ".join(word.split()) for word in said.split(",")]
    wanted = [BUILT, MEASURED] + ([("plan of record",)] if page.path.startswith(RECORDS) else [])
    if not set(given) <= set(STATUS) or any(len(set(given) & set(words)) != 1 for words in wanted):
        yield page.find(
            line,
            f"a status is made of {', '.join(STATUS)}, got {said!r}; take one of each kind",
        )
