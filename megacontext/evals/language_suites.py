"""The suites of `megacontext eval` that ask no questions: plain held-out text, read with gists and without.

Each takes a configuration, prepares all that it reads before anything is written, and runs into a run's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megacontext.evals.delta_nll import DeltaNllConfig, prepare_delta, run_delta
from megacontext.evals.gist_kinds import GistKindsConfig, prepare_kinds, run_kinds
from megacontext.evals.substitutability import (
    SubstitutabilityConfig,
    prepare_substitutability,
    run_substitutability,
)
from megacontext.runtime.run import RunFolder


@dataclass(frozen=True)
class LanguageSuite:
    """One measurement of plain text."""

    config: type
    prepare: Callable[[Any], Any]
    run: Callable[[Any, RunFolder], dict[str, Any]]


LANGUAGE_SUITES = {
    "delta-nll": LanguageSuite(DeltaNllConfig, prepare_delta, run_delta),
    "gist-kinds": LanguageSuite(GistKindsConfig, prepare_kinds, run_kinds),
    "substitutability": LanguageSuite(SubstitutabilityConfig, prepare_substitutability, run_substitutability),
}
