"""What a command tells, once, as text or as JSON on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np


def answer(told: dict[str, Any], as_json: bool, say: Callable[[], None]) -> None:
    """Print `told` as JSON, or have `say` print it for people."""
    if as_json:
        print(json.dumps(told, indent=2, default=_plain))
    else:
        say()


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
