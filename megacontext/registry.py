"""Names for variants: a registry maps a name to a value and does nothing cleverer.

What a name stands for (a scorer, a dialect, a strategy) and when its module is imported is the owner's
business.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Generic, TypeVar

from megacontext.errors import ConfigError, UnknownVariantError

T = TypeVar("T")


class Registry(Generic[T]):
    """Variants of one kind, by name, in the order of their registration."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator (or plain call) that files its argument under `name`. ConfigError if it is taken."""

        def file(entry: T) -> T:
            if name in self._entries:
                raise ConfigError(
                    f"a name stands for one {self.kind}, {name!r} is taken by {self._entries[name]!r}; "
                    "choose another"
                )
            self._entries[name] = entry
            return entry

        return file

    def get(self, name: str) -> T:
        """The entry of that name. Raises UnknownVariantError with the names that exist."""
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(self._entries) or "none"
        raise UnknownVariantError(f"unknown {self.kind} {name!r}; {hint}known are {known}")

    def names(self) -> list[str]:
        """All names."""
        return list(self._entries)
