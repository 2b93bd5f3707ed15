"""`megacontext memory export` and `import`: a memory as a folder of .ctx files, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from megacontext.cli.answers import answer
from megacontext.cli.memory.materials import MemoryPath
from megacontext.progress import Progress
from megacontext.tree import Memory
from megacontext.tree.interchange import export_memory, import_memory


@dataclass(frozen=True)
class Export:
    """Write a memory as a folder of .ctx files: ids, gists, addresses, and metadata.json."""

    memory: MemoryPath
    """Folder of a memory."""
    folder: Annotated[Path, tyro.conf.Positional]
    """New folder for the files."""
    version: int | None = None
    """Gist version to write; default: the one that is read."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        with Memory.open(self.memory) as memory, Progress("records", None) as progress:
            chosen = memory if self.version is None else memory.reading(self.version)
            export_memory(chosen, self.folder, progress.set)
        files = {path.name: path.stat().st_size for path in sorted(self.folder.iterdir())}
        answer(
            {"folder": str(self.folder), "files": files},
            self.json,
            lambda: print(f"{sum(files.values()):,} bytes in {len(files)} files in {self.folder}"),
        )
        return 0


@dataclass(frozen=True)
class Import:
    """Make a memory of a folder of .ctx files."""

    folder: Annotated[Path, tyro.conf.Positional]
    """What `export` wrote."""
    memory: MemoryPath
    """Folder for the new memory."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        with Progress("records", None) as progress:
            import_memory(self.folder, self.memory, progress.set)
        with Memory.open(self.memory) as memory:
            told = {"tokens": memory.num_tokens, "documents": len(memory.documents)}
        answer(
            told,
            self.json,
            lambda: print(f"{told['tokens']:,} tokens in {told['documents']:,} documents in {self.memory}"),
        )
        return 0
