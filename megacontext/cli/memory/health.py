"""`megacontext memory verify`, `repair` and `refresh`: is it whole, what is left of it, and gists made anew.

An interrupt leaves the memory valid; a sweep goes on where it stopped when the command is given again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from megacontext.cli.answers import answer
from megacontext.cli.memory.materials import MemoryPath, filler_of, load_encoder, sweep_at
from megacontext.errors import ConfigError
from megacontext.progress import Progress
from megacontext.tree import Memory, refresh
from megacontext.tree.repair import repair
from megacontext.tree.verification import verify

DAMAGED = 1
"""Exit code of a check that found something."""


@dataclass(frozen=True)
class Verify:
    """Read all of a memory and say what is damaged, and where. Exit code 1 if something is."""

    memory: MemoryPath
    """Folder of a memory."""
    recompute: bool = False
    """Also make every vector again with the model, and compare."""
    model: str = "tiny"
    """The model for --recompute: a folder in data/, or the path of one."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        encoder = load_encoder(self.model) if self.recompute else None
        with Progress("records read", None) as progress:
            found = verify(
                self.memory,
                encoder.identity() if encoder else None,
                encoder,
                lambda count: progress.set(count),
            )
        told = {**asdict(found), "ok": found.ok}

        def say() -> None:
            for damage in found.damages:
                where = f"tokens {damage.span.start:,}-{damage.span.stop:,}: " if damage.span else ""
                print(f"{damage.kind}: {where}{damage.what}")
            compared = f", {found.recomputed:,} vectors made again" if found.recomputed else ""
            what = (
                "sound"
                if found.ok
                else f"{len(found.damages)} damages; `megacontext memory repair` mends them"
            )
            print(f"{found.records:,} records of {found.num_tokens:,} tokens read{compared}: {what}")

        answer(told, self.json, say)
        return 0 if found.ok else DAMAGED


@dataclass(frozen=True)
class Repair:
    """Make a damaged memory whole from every record that is left, and say which tokens are lost."""

    memory: MemoryPath
    """Folder of a memory."""
    model: str = "tiny"
    """The model that it was made with: makes lost gists again."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        encoder = load_encoder(self.model)
        done = repair(self.memory, filler_of(encoder), encoder.identity())
        swept = sweep_at(self.memory, encoder)
        told = {**asdict(done), "kept_aside": str(done.kept_aside), "blocks_swept": swept}

        def say() -> None:
            for span in done.lost:
                print(f"lost: tokens {span.start:,}-{span.stop:,}")
            for number in done.lost_documents:
                print(f"lost: the name of document {number}")
            lost = sum(span.stop - span.start for span in done.lost)
            print(
                f"{done.num_tokens - lost:,} of {done.num_tokens:,} tokens are whole, gists of {swept:,} blocks were "
                f"made again; the damaged file is kept as {done.kept_aside}"
            )

        answer(told, self.json, say)
        return 0


@dataclass(frozen=True)
class Refresh:
    """Make gists with a model: those that are missing, or a whole new version beside the old one.

    A sweep that is interrupted goes on where it stopped when the command is given again.
    """

    memory: MemoryPath
    """Folder of a memory."""
    model: str = "tiny"
    """A folder in data/, or the path of one."""
    mode: Literal["eager", "coexist", "lazy"] = "eager"
    """eager: make all gists, then read them by default; coexist: make all, but go on reading the old ones by default;
    lazy: only note the version, its gists are made when they are read."""
    drop_old: bool = False
    """Remove the other versions at the end."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if self.drop_old and self.mode != "eager":
            raise ConfigError(f"--drop-old needs --mode eager, got {self.mode}; the old gists are still read")
        encoder = load_encoder(self.model)
        with Memory.open(self.memory, writable=True) as memory:
            version = refresh.add_version(memory, encoder.identity(), encoder)
        swept = 0 if self.mode == "lazy" else sweep_at(self.memory, encoder)
        dropped: list[int] = []
        with Memory.open(self.memory, writable=True) as memory:
            if self.mode == "eager":
                refresh.switch(memory, version.number)
            if self.drop_old:
                dropped = [one.number for one in memory.catalogue.versions if one.number != version.number]
                for number in dropped:
                    refresh.drop_version(memory, number)
            active = memory.catalogue.active
        told = {"version": version.number, "active": active, "blocks_swept": swept, "dropped": dropped}
        answer(
            told,
            self.json,
            lambda: print(
                f"version {version.number}: gists of {swept:,} blocks made; version {active} is read by default"
            ),
        )
        return 0
