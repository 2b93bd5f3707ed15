"""Does the prose hold? Links, images, paths, commands, figures and promises of the vault and the front pages.

    python tools/check_docs.py [--json] [--root FOLDER]

Prints a sentence with file and line for everything that does not, and ends with 1 if there was any. Nothing is run and
nothing is fetched; what each check takes for a link, a command or a figure is said in its module in tools/doccheck.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from doccheck.commands import check_commands
from doccheck.figures import check_figures
from doccheck.links import VAULT, check_links
from doccheck.pages import Finding, Page, read_page
from doccheck.places import check_places
from doccheck.words import check_words

FRONT = ("README.md", "AGENTS.md", "CONTRIBUTING.md", "data/README.md")
CHECKS: tuple[Callable[[Path, Sequence[Page]], Iterator[Finding]], ...] = (
    check_links,
    check_places,
    check_commands,
    check_figures,
    check_words,
)


def read_pages(root: Path) -> list[Page]:
    """The front pages, the vault's notes and the notebooks, as many of them as there are."""
    paths = [root / name for name in FRONT if (root / name).is_file()]
    paths += sorted((root / VAULT).rglob("*.md"))
    paths += sorted((root / "notebooks").glob("*.py"))
    return [read_page(root, path) for path in paths]


def findings(root: Path) -> list[Finding]:
    """All that does not hold, by file and line."""
    pages = read_pages(root)
    found = {finding for check in CHECKS for finding in check(root, pages)}
    return sorted(found, key=lambda finding: (finding.path, finding.line, finding.says))


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the prose of the vault and the front pages.")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parents[1], help="of the checkout"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    found = findings(given.root)
    if given.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        print("\n".join(map(str, found)) or "nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
