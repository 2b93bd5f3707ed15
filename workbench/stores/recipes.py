"""Recipes of runs: read, flattened to dotted keys, and laid beside one another where they differ.

Deliberately ignorant of what the keys mean.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError


@dataclass(frozen=True)
class Difference:
    """One key that not all recipes agree on, and its value in each as TOML would have it; None where it is absent."""

    key: str
    values: tuple[str | None, ...]


def read_recipe(run: Path) -> tuple[str, dict[str, Any]]:
    """Text and content of a run's recipe.toml; both empty where there is none. Raises ConfigError."""
    path = run / "recipe.toml"
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        return "", {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise ConfigError(
            f"a run's recipe must be TOML in UTF-8, {path} is not ({problem}); mend it"
        ) from None


def find(table: Mapping[str, Any], key: str) -> object:
    """The first value under `key`, however deep; None if there is none."""
    if key in table:
        return table[key]
    for value in table.values():
        if isinstance(value, dict) and (found := find(value, key)) is not None:
            return found
    return None


def flattened(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys and values as text; tables in a list are counted from 0: `stages.0.steps`."""
    return dict(_leaves("", recipe))


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Keys whose values differ between recipes, in the order in which they come."""
    flat = [flattened(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    rows = (Difference(key, tuple(recipe.get(key) for recipe in flat)) for key in keys)
    return [row for row in rows if len(set(row.values)) > 1]


def _leaves(above: str, value: Any) -> Iterator[tuple[str, str]]:
    nested = isinstance(value, list) and any(isinstance(one, dict) for one in value)
    if isinstance(value, Mapping) or nested:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, below in pairs:
            yield from _leaves(f"{above}.{key}" if above else str(key), below)
    else:
        # Dates of TOML are no JSON; they say themselves in words.
        yield above, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
