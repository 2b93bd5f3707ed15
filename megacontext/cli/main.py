"""Finds the command that was asked for, reads its options, runs it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

import tyro

from megacontext.errors import MegaContextError

GROUP = "megacontext.commands"
USAGE_ERROR, INTERRUPTED = 2, 130


class Command(Protocol):
    """What a command's dataclass offers.

    One that goes by a recipe or a suite also has `resolved()`: the configuration that its options describe, or a
    ConfigError, with nothing read but the recipe.
    """

    def run(self) -> int:
        """Do it and return the exit code."""
        ...


def read_command(arguments: Sequence[str], commands: Iterable[EntryPoint] | None = None) -> Command:
    """The command that `megacontext ARGUMENTS` asks for, with its options, not run.

    `commands` are those that there are; None: the installed ones. Where the arguments do not parse, tyro says why on
    standard error and SystemExit(2) is raised; after --help SystemExit(0).
    """
    given = list(arguments)
    there = entry_points(group=GROUP) if commands is None else commands
    known = {entry.name: entry for entry in sorted(there, key=lambda entry: entry.name)}
    # Only the command that is asked for is imported: the others' imports take seconds.
    if given and given[0] in known:
        return tyro.cli(known[given[0]].load(), prog=f"megacontext {given[0]}", args=given[1:])
    loaded = {name: entry.load() for name, entry in known.items()}
    return tyro.extras.subcommand_cli_from_dict(
        loaded, prog="megacontext", args=given, sort_subcommands=False
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megacontext ARGUMENTS` (those of the process by default) and return the exit code."""
    try:
        return read_command(sys.argv[1:] if arguments is None else arguments).run()
    except MegaContextError as problem:
        print(f"megacontext: {problem}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("megacontext: interrupted; what was written is whole", file=sys.stderr)
        return INTERRUPTED
