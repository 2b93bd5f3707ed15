"""What the commands work with: the memory that was named, the model that makes its gists, and the making of them.

Deliberately knows no command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tree import Memory, refresh

MemoryPath = Annotated[Path, tyro.conf.Positional]


def load_encoder(model: str) -> BundleEncoder:
    """The gist encoder of a model: a folder in data/, or the path of one."""
    return BundleEncoder(Bundle.load(model_folder(model)))


def filler_of(encoder: BundleEncoder) -> int:
    """The id that stands where tokens were taken out: a line's end, which says as little as any."""
    (newline,) = encoder.tokenizer.encode("\n").tolist()
    return newline


def sweep(memory: Memory, encoder: BundleEncoder) -> int:
    """Make what the encoder's version lacks, with a bar. Returns of how many blocks."""
    version = memory.version
    lacking = sum(stop - first for first, stop in version.missing(memory.num_blocks))
    with Progress("blocks into gists", lacking) as progress:
        return refresh.sweep(memory, version.number, encoder, lambda done, _: progress.set(done))


def sweep_at(path: Path, encoder: BundleEncoder) -> int:
    """The same for a memory that is not open."""
    with Memory.open(path, encoder.identity(), encoder, writable=True) as memory:
        return sweep(memory, encoder)
