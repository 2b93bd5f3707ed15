"""The command line: `megacontext COMMAND`.

A command is a dataclass whose fields are its options and whose `run` does it; commands are found through the entry
points of the group `megacontext.commands`, so that packages above this one (the workbench) bring theirs along
without being imported from here. What a user did wrong becomes one sentence on standard error and exit code 2; an
interrupt ends with 130.
"""

from megacontext.cli.main import main

__all__ = ["main"]
