"""What the pages know about a memory: opened for reading, followed while another process writes it.

A memory is opened once in a process and shared by all pages, because LMDB wants it so. Deliberately ignorant of plots
and pages, and of the model that reads the memory.
"""

from __future__ import annotations

from pathlib import Path

from megacontext.tree import Memory


class MemoryStore:
    """One open memory. Raises what `Memory.open` raises, one sentence to be shown."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.memory = Memory.open(self.path)
        self._seen: tuple[int, int] = self._state()

    def close(self) -> None:
        """Let go of the file."""
        self.memory.close()

    def refresh(self) -> bool:
        """Whether the history has grown or changed since the last call."""
        state = self._state()
        changed, self._seen = state != self._seen, state
        return changed

    @property
    def num_tokens(self) -> int:
        """Length of the history as of now."""
        return self.memory.num_tokens

    @property
    def block_size(self) -> int:
        """K."""
        return self.memory.block_size

    def _state(self) -> tuple[int, int]:
        return self.memory.num_tokens, self.memory.revision
