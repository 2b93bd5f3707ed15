"""Finds the command that was asked for, reads its options, runs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Protocol

import tyro

from megacontext.errors import MegaContextError

GROUP = "megacontext.commands"
USAGE_ERROR, INTERRUPTED = 2, 130


class Command(Protocol):
    """What a command's dataclass offers."""

    def run(self) -> int:
        """Do it and return the exit code."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megacontext ARGUMENTS` (those of the process by default) and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}
    # Only the command that is asked for is imported: the others' imports take seconds.
    wanted = [known[given[0]]] if given and given[0] in known else list(known.values())
    try:
        command: Command = (
            tyro.extras.subcommand_cli_from_dict(
                {entry.name: entry.load() for entry in wanted},
                prog="megacontext",
                args=given,
                sort_subcommands=False,
            )
            if len(wanted) > 1
            else tyro.cli(wanted[0].load(), prog=f"megacontext {given[0]}", args=given[1:])
        )
        return command.run()
    except MegaContextError as problem:
        print(f"megacontext: {problem}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("megacontext: interrupted; what was written is whole", file=sys.stderr)
        return INTERRUPTED
