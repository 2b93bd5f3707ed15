"""What the pages know about a memory: opened for reading, followed while another process writes it.

A memory is opened once in a process and shared by all pages, because LMDB wants it so. Deliberately ignorant of plots
and pages, and of the model that reads the memory.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.tree import Memory

if TYPE_CHECKING:
    from megacontext.runtime.bundle import Bundle
    from megacontext.runtime.frozen.reader import FrozenReader


class MemoryStore:
    """One open memory. Raises what `Memory.open` raises, one sentence to be shown."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.memory = Memory.open(self.path)
        self.lock = threading.RLock()
        """Held by whoever writes, or reads from another thread than the pages'."""
        self._seen: tuple[int, int] = self._state()

    def write_with(self, parts: Bundle | FrozenReader) -> None:
        """Open the memory again for writing, with the gists of `parts`. If that is refused, it stays open to read."""
        from megacontext.runtime.frozen.encoding import encoder_of

        encoder = encoder_of(parts)
        with self.lock:
            self.memory.close()
            try:
                self.memory = Memory.open(self.path, encoder.identity(), encoder, writable=True)
            except BaseException:
                self.memory = Memory.open(self.path)
                raise

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
