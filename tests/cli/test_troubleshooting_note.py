"""The note on troubleshooting quotes sentences that the code says: whoever searches it for theirs finds it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTE = ROOT / "obsidian" / "operations" / "Troubleshooting.md"
QUOTED = [
    line.split("|")[1].strip()
    for line in NOTE.read_text(encoding="utf-8").split("\n")
    if line.startswith("| ") and not line.startswith("| says |")
]


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Every text that the code holds; what is put into one is a …"""
    found = []
    for folder in ("megacontext", "kernels/megakernels"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_it_quotes_is_said(quoted, sentences):
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in quoted.split("…")), re.DOTALL)
    assert any(pattern.search(sentence) for sentence in sentences)


def test_it_quotes_something():
    assert len(QUOTED) > 15
