"""The note on telemetry says what the schema says: each kind, column, type and meaning, and what may be null."""

import re
from pathlib import Path

from megacontext.telemetry.schema import COLUMNS, SCHEMA_VERSION

NOTE = Path(__file__).resolve().parents[2] / "obsidian" / "operations" / "Telemetry.md"


def test_its_tables_are_the_schema():
    _, *parts = re.split(r"^## (\w+)$", NOTE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = {
        kind: [
            tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in text.split("\n") if "|" in line
        ][2:]
        for kind, text in zip(parts[::2], parts[1::2], strict=True)
    }
    assert told == {
        kind: [
            (f"**{name}**" if column.required else name, str(column.dtype), column.meaning)
            for name, column in columns.items()
        ]
        for kind, columns in COLUMNS.items()
    }


def test_it_names_the_version():
    assert f"**Version {SCHEMA_VERSION}.**" in NOTE.read_text(encoding="utf-8")
