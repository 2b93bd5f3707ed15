"""`megacontext memory COMMAND`: everything that is done to a memory on disk, one small command each.

What a command tells goes to standard output, as text or, with `--json`, as JSON; progress goes to standard error. An
interrupt leaves the memory valid, and the same command goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from megacontext.cli.memory.forgetting import Compact, Forget
from megacontext.cli.memory.health import Refresh, Repair, Verify
from megacontext.cli.memory.ingest import Ingest
from megacontext.cli.memory.inspecting import Inspect, Stats
from megacontext.cli.memory.interchange import Export, Import
from megacontext.cli.memory.search import Search


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
@dataclass(frozen=True)
class MemoryCommands:
    """Care for a memory on disk: fill, look, check, mend, refresh, forget."""

    command: (
        Annotated[Ingest, tyro.conf.subcommand("ingest")]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Search, tyro.conf.subcommand("search")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Repair, tyro.conf.subcommand("repair")]
        | Annotated[Refresh, tyro.conf.subcommand("refresh")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Import, tyro.conf.subcommand("import")]
        | Annotated[Forget, tyro.conf.subcommand("forget")]
        | Annotated[Compact, tyro.conf.subcommand("compact")]
        | Annotated[Stats, tyro.conf.subcommand("stats")]
    )

    def run(self) -> int:
        return self.command.run()
