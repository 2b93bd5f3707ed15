"""Why something is no source: said in a word where it lay in a folder, in a sentence to whoever named it.

Deliberately knows nothing of what can be wrong with a file or a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from megacontext.errors import ConfigError


class Unusable(Exception):
    """Why something is no source: in a word for a report, and the parts of a sentence for who named it."""

    def __init__(self, why: str, rule: str, fault: str, way_out: str):
        super().__init__(why)
        self.why, self.rule, self.fault, self.way_out = why, rule, fault, way_out


@contextmanager
def refusing(noun: str, name: str) -> Iterator[None]:
    """Turns what is wrong inside into the sentence for whoever asked for `name`."""
    try:
        yield
    except Unusable as problem:
        raise ConfigError(
            f"a {noun} must {problem.rule}, {name} {problem.fault}; {problem.way_out}"
        ) from None


def unreadable(problem: OSError) -> Unusable:
    """For what the system would not let be read."""
    return Unusable(
        f"unreadable ({problem.strerror})",
        "be a readable file",
        f"is not ({problem.strerror})",
        "check the path",
    )
