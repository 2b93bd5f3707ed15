"""`megacontext inspect MEMORY --context`: what a model would see of a memory, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.text import Text

from megacontext.cli.answers import answer
from megacontext.cli.memory.inspecting import Inspect as InspectMemory
from megacontext.cli.memory.materials import load_encoder
from megacontext.cli.tables import plain_table
from megacontext.errors import ConfigError
from megacontext.runtime.explain import EntryExplanation, as_text
from megacontext.runtime.live import LiveConfig, LiveSession
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tasks.facts import as_prompt
from megacontext.tree import Memory


@dataclass(frozen=True)
class Inspect:
    """Look at a memory, or with --context at the working context that a model would read of it. Nothing is changed."""

    memory: Annotated[Path, tyro.conf.Positional]
    """Folder of a memory."""
    context: bool = False
    """Show the working context: each entry with its level, score, cost and why, and the text that the model sees."""
    question: str = ""
    """What is asked; without it, the last tokens stand for the question."""
    budget: int = 256
    """Key/value positions that the model may attend to."""
    scorer: str = "lensnet"
    """Who says where detail is needed."""
    layout: str = "timeline"
    """Order of rows: timeline or cover-first."""
    model: str = "tiny"
    """A folder in data/, or the path of a folder, with the trained parts that the memory was made with."""
    text: bool = False
    """With --context: the exact text alone, gists as marks."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if not self.context:
            if self.question or self.text:
                raise ConfigError("--question and --text are for a working context, got no --context; add it")
            return InspectMemory(self.memory, json=self.json).run()
        encoder = load_encoder(self.model)
        with Memory.open(self.memory, encoder.identity(), encoder) as memory:
            session = Session(encoder.bundle, memory, FocusConfig(budget=self.budget), scorer=self.scorer)
            live = LiveSession(session, LiveConfig(layout=self.layout))
            if self.question:
                live.refocus(np.asarray(encoder.tokenizer.encode(as_prompt(self.question))))
            entries = live.explain()
        told = {
            "tokens": live.context.num_tokens,
            "budget_positions": self.budget,
            "cost_positions": live.context.cost,
            "entries": [asdict(entry) for entry in entries],
            "text": as_text(entries),
        }
        answer(told, self.json, lambda: print(told["text"]) if self.text else _print(entries, live))
        return 0


def _print(entries: list[EntryExplanation], live: LiveSession) -> None:
    table = plain_table("tokens", "LOD", "cost", "score", "rank")
    for column in ("why", "history", "text"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(
            f"{entry.start:,}-{entry.stop:,}",
            str(entry.lod),
            str(entry.cost_positions),
            "" if entry.score is None else f"{entry.score:+.2f}",
            "" if entry.rank is None else str(entry.rank),
            entry.why,
            "; ".join(entry.history),
            Text(" ".join(entry.text.split())),
        )
    console = Console()
    console.print(table)
    console.print(
        f"{live.context.cost} of {live.budget} positions stand for {live.context.num_tokens:,} tokens, in "
        f"{len(entries)} entries"
    )
