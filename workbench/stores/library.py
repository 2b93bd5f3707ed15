"""Everything that one server may show, by name: the runs of a folder, their memories, and one memory beside them.

A name is never a path, so no address that a page is opened with leads anywhere else. A memory is opened once in a
process, whoever looks at it; the few that were looked at last stay open.
"""

from __future__ import annotations

import time
import tomllib
from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from megacontext.errors import ConfigError, MegaContextError, TreeFormatError
from workbench.stores.catalogue import Catalogue
from workbench.stores.curves import RunCurves
from workbench.stores.memory import MemoryStore, bytes_of, stamp_of
from workbench.stores.parts import Parts
from workbench.stores.replay import Replay
from workbench.stores.run import RunStore
from workbench.stores.runs import RunSummary, list_runs, read_info

MEMORIES_OPEN = 4
"""Memories that stay open at most."""
CURVES_KEPT = 16
"""Runs whose curves stay in memory at most."""
REFUSED_FOR_S = 10.0
"""How long a memory that cannot be opened is not tried again while its files stay as they are: a try walks them."""
RUNS_KEPT = 2
"""Runs that stay in memory though no page shows them: whoever reloads a page finds his again."""
MEMORY_FOLDER = "memory"
"""Folder of a run that holds the memories of its histories."""


class _Refused(NamedTuple):
    files: object
    problem: MegaContextError
    until_s: float


class _Folder(NamedTuple):
    """What tells a run from another one that took its name."""

    name: str
    inode: int
    started: datetime | None


class Library:
    """One per server, shared by its pages. `memory` is one that belongs to no run; its folder's name is its name."""

    def __init__(
        self,
        runs: str | Path,
        memory: str | Path | None = None,
        *,
        models: Sequence[str] = (),
        writable: bool = False,
    ):
        """`models` are tried first where one is wanted to read a memory, before those that ship.

        `writable` lets pages write to `memory`, and to nothing else.
        """
        self.runs_folder = Path(runs)
        self.parts = Parts(models)
        self._writable = writable
        self.replay = Replay()
        self._given = None if memory is None else Path(memory).resolve()
        self._open: OrderedDict[Path, MemoryStore] = OrderedDict()
        self._runs: WeakValueDictionary[_Folder, RunStore] = WeakValueDictionary()
        self._runs_kept: deque[RunStore] = deque(maxlen=RUNS_KEPT)
        self._curves: OrderedDict[str, RunCurves] = OrderedDict()
        self.catalogue = Catalogue(self.runs_folder)
        """Every run with its state and figures, for a list of them."""
        self._refused: dict[Path, _Refused] = {}

    @property
    def given_memory(self) -> str:
        """Name of the memory that belongs to no run; empty if there is none."""
        return "" if self._given is None else self._given.name

    def runs(self) -> list[RunSummary]:
        """Runs in the folder, the newest first."""
        return list_runs(self.runs_folder)

    def run(self, name: str) -> RunStore:
        """A run by its name, brought up to date; pages that show it share it. Raises ConfigError for none.

        It is let go of when the last page has, but for the few that were asked for last. Another run under the same
        name, in a folder of its own, is another store.
        """
        path = self.run_path(name)
        try:
            inode = path.stat().st_ino
        except OSError:
            inode = 0  # the next line says what is wrong
        folder = _Folder(name, inode, read_info(path).started)
        run = self._runs.get(folder)
        if run is None:
            run = self._runs[folder] = RunStore(path)
        else:
            run.refresh()
        if run not in self._runs_kept:
            self._runs_kept.append(run)
        return run

    def curves(self, name: str) -> RunCurves:
        """The curves of a run by its name, brought up to date; pages share them. Raises ConfigError for no run."""
        if name not in self._curves:
            self._curves[name] = RunCurves(self.run_path(name))
            while len(self._curves) > CURVES_KEPT:
                self._curves.popitem(last=False)
        self._curves.move_to_end(name)
        self._curves[name].refresh()
        return self._curves[name]

    def run_path(self, name: str) -> Path:
        """The folder of a run. Raises ConfigError for a name that is a path: it could lead elsewhere."""
        return self.runs_folder / _bare(name, f"a run is named by its folder in {self.runs_folder}")

    def memories(self, run: str = "") -> dict[str, Path]:
        """Memories that may be opened, by name: the given one, and `RUN/HISTORY` for those of a run."""
        found = {} if self._given is None else {self.given_memory: self._given}
        folder = self.run_path(run) / MEMORY_FOLDER if run else None
        if folder is not None and folder.is_dir():
            found |= {f"{run}/{path.name}": path for path in sorted(folder.iterdir()) if path.is_dir()}
        return found

    def memory(self, name: str) -> MemoryStore:
        """A memory by its name, opened if it is not yet. Raises ConfigError for no such name, and what opening does.

        Cheap when it is open. One whose files were removed, replaced or cut short since is let go of, and opened again
        if there is something to open; one that was refused is not tried again before its files have changed.
        """
        run, _, _ = name.rpartition("/")
        path = self.memories(run).get(name)
        if path is None:
            raise ConfigError(f"there is no memory {name!r} here; choose one of {self.runs_folder}")
        path = path.resolve()
        if path in self._open:
            try:
                self._open[path].check()
            except TreeFormatError:
                self._open.pop(path).close()
        if path not in self._open:
            self._open[path] = self._opened(path, self.run_path(run) if run else None)
            while len(self._open) > MEMORIES_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]

    def _opened(self, path: Path, run: Path | None) -> MemoryStore:
        now, files = time.monotonic(), (stamp_of(path), bytes_of(path))
        known = self._refused.get(path)
        if known is not None and known.files == files and now < known.until_s:
            raise type(known.problem)(str(known.problem))
        try:
            store = MemoryStore(path, self.parts, "" if run is None else model_named_by(run))
        except MegaContextError as problem:
            self._refused[path] = _Refused(files, problem, now + REFUSED_FOR_S)
            raise
        self._refused.pop(path, None)
        return store

    def may_write(self, name: str) -> bool:
        """Whether pages may write to that memory."""
        return self._writable and bool(name) and name == self.given_memory

    def writable_memory(self, name: str, model: str) -> MemoryStore:
        """A memory opened for writing, in the place of the one that was open for reading.

        Raises ConfigError for one that pages may not write to, TreeFormatError where somebody else writes it.
        """
        if not self.may_write(name):
            raise ConfigError(
                f"the memory {name!r} is open for reading only; start `megacontext workbench MEMORY --write` to write"
            )
        store = self.memory(name)
        if not store.memory.writable:
            store.write_with(self.parts.named(model))
        return store

    def close(self) -> None:
        """Let go of all memories, and of the process that scores steps anew."""
        self.replay.close()
        while self._open:
            self._open.popitem()[1].close()


def model_named_by(run: Path) -> str:
    """The model that a run's recipe names, empty where it names none or cannot be read."""
    try:
        recipe = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    named = recipe.get("model")
    return named if isinstance(named, str) else ""


def _bare(name: str, rule: str) -> str:
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise ConfigError(f"{rule}, got {name!r}; give the bare name")
    return name
