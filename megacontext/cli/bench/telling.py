"""What the benchmarks' commands share: which arm is measured now, and a figure with its spread."""

from __future__ import annotations

import sys
from typing import Any


def telling(what: str) -> Any:
    """Says on standard error what is measured now."""
    return lambda arm: print(f"bench {what}: {arm}", file=sys.stderr)


def on_one_line(told: dict[str, Any]) -> str:
    """The machine or the config of a bench, before its tables."""
    return ", ".join(f"{name} {value}" for name, value in told.items())


def spread(told: dict[str, Any], name: str, form: str) -> str:
    return f"{told[name]:{form}} ({told[name + '_min']:{form}} to {told[name + '_max']:{form}})"
