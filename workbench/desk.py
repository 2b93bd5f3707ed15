"""What lies before one page: its selection, the run that is open, and the memory that belongs to it.

Views read from the desk and never open anything themselves. Each browser tab has a desk of its own; what is dear to
open is shared through the library.
"""

from __future__ import annotations

from workbench.state import Selection
from workbench.stores.library import Library
from workbench.stores.memory import MemoryStore
from workbench.stores.run import RunStore


class Desk:
    """One page's."""

    def __init__(self, library: Library, selection: Selection | None = None):
        self.library = library
        self.selection = selection or Selection()
        self.run: RunStore | None = None
        """The selected run; None where none is selected or it cannot be shown. Other desks may have it too."""
        self._revision = 0

    def open_run(self) -> None:
        """Open the selected run, if any, and settle the selection on what it has. Raises ConfigError."""
        self.run = None
        if self.selection.run:
            self.run = self.library.run(self.selection.run)
            self._revision = self.run.revision
        self.settle()

    def follow(self) -> bool:
        """Take in what the open run has written; whether this desk has anything new. Raises ConfigError."""
        if self.run is None:
            return False
        self.run.refresh()
        new = self.run.revision != self._revision
        self._revision = self.run.revision
        return new

    def settle(self) -> None:
        """Move whatever is selected and does not exist to something that does."""
        if self.run is not None:
            self.selection.settle(self.run)

    @property
    def memory_name(self) -> str:
        """The selected memory; else that of the run's history; else the one that belongs to no run; or nothing."""
        chosen = self.selection
        if chosen.memory:
            return chosen.memory
        name = f"{chosen.run}/{chosen.history}"
        if chosen.run and chosen.history and name in self.library.memories(chosen.run):
            return name
        return self.library.given_memory

    def memory(self) -> MemoryStore | None:
        """The memory of that name, None where there is none. Raises what opening it does."""
        name = self.memory_name
        return self.library.memory(name) if name else None

    @property
    def history_of_memory(self) -> str:
        """The history of the open run that the memory is of; empty where it is of none."""
        run, _, history = self.memory_name.rpartition("/")
        return history if self.run is not None and run == self.selection.run else ""
