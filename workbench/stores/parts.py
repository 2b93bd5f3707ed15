"""Which trained models can read a memory, found by fingerprints; opened when they are first wanted, once for all pages.

Opening a frozen decoder takes seconds and half a gigabyte, so whether it fits is told from its description alone.
Importing torch takes seconds too, and most pages never want it: it is imported with the first model.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from megacontext.errors import ConfigError, MegaContextError
from megacontext.tree import Memory

if TYPE_CHECKING:
    from megacontext.runtime.bundle import Bundle
    from megacontext.runtime.frozen.reader import FrozenReader

SHIPPED = ("tiny", "smollm2-reader")
"""Models that come with the project."""


class Parts:
    """Models by name: what ships, or the path of a folder. May be asked from any thread."""

    def __init__(self, names: Sequence[str] = ()):
        """`names` are tried before those that ship."""
        self._names = tuple(dict.fromkeys((*names, *SHIPPED)))
        self._open: dict[str, Bundle | FrozenReader] = {}
        self._lock = threading.RLock()

    def fitting(self, memory: Memory, more: Sequence[str] = ()) -> list[str]:
        """Names of the models that made a gist version of `memory`, those in `more` first; others are passed over."""
        names = dict.fromkeys((*(name for name in more if name), *self._names))
        return [name for name in names if self._fits(name, memory)]

    def named(self, name: str) -> Bundle | FrozenReader:
        """The model, opened if it is not yet: seconds for a frozen decoder. Raises what `open_parts` raises."""
        from megacontext.runtime.frozen.reader import open_parts

        with self._lock:
            if name not in self._open:
                self._open[name] = open_parts(name)
            return self._open[name]

    def for_memory(self, memory: Memory, more: Sequence[str] = ()) -> Bundle | FrozenReader:
        """The first model that fits, opened. Raises ConfigError where none does."""
        names = self.fitting(memory, more)
        if not names:
            tried = ", ".join(dict.fromkeys((*(name for name in more if name), *self._names)))
            raise ConfigError(
                f"reading {memory.history.label} needs the model that it was made with, none of {tried} is; "
                "start the workbench with --model FOLDER"
            )
        return self.named(names[0])

    def _fits(self, name: str, memory: Memory) -> bool:
        from megacontext.runtime.encoding import BundleEncoder
        from megacontext.runtime.frozen.reader import is_reader, reader_folder

        catalogue = memory.catalogue
        try:
            if is_reader(folder := reader_folder(name)):
                told: dict[str, Any] = json.loads((folder / "reader.json").read_text(encoding="utf-8"))
                return any(one.embedding == told.get("decoder_fingerprint") for one in catalogue.versions)
            return catalogue.find(BundleEncoder(self.named(name)).identity()) is not None
        except (MegaContextError, OSError, ValueError):
            return False  # a model that is not there, or not whole, reads nothing
