"""`megacontext bench WHAT`: figures of this machine, each checked for correctness before it is timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from megacontext.cli.bench.focus import FocusBench
from megacontext.cli.bench.live import LiveBench
from megacontext.cli.bench.model import ModelBench
from megacontext.cli.bench.scoring import ScoringBench
from megacontext.cli.bench.store import StoreBench


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
@dataclass(frozen=True)
class Bench:
    """Measure this machine."""

    what: (
        Annotated[StoreBench, tyro.conf.subcommand("store")]
        | Annotated[ModelBench, tyro.conf.subcommand("model")]
        | Annotated[FocusBench, tyro.conf.subcommand("focus")]
        | Annotated[ScoringBench, tyro.conf.subcommand("scoring")]
        | Annotated[LiveBench, tyro.conf.subcommand("live")]
    )

    def run(self) -> int:
        return self.what.run()
