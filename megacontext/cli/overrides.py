"""`--set KEY=VALUE ...`: changes to a recipe from the command line, as many as wanted, in one option or in several."""

from __future__ import annotations

import tyro

from megacontext.config import parse_override

Overrides = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
"""Type of the option. A plain tuple would keep the last `--set` alone and drop the others without a word."""


def parsed(given: tuple[tuple[str, ...], ...]) -> dict[str, object]:
    """Values by dotted key; of a key that is given twice, the last. Raises ConfigError for what is no key=value."""
    return dict(parse_override(text) for texts in given for text in texts)
