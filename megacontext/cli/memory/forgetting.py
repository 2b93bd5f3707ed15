"""`megacontext memory forget` and `compact`: out of the memory, then out of its file."""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.cli.answers import answer
from megacontext.cli.memory.materials import MemoryPath, filler_of, load_encoder, sweep
from megacontext.errors import ConfigError, NodeMissingError
from megacontext.progress import Progress
from megacontext.tree import Document, Memory
from megacontext.tree.forgetting import compact, forget_document, forget_span


@dataclass(frozen=True)
class Forget:
    """Take a document, or a span of tokens, out of a memory. `compact` then takes it out of the file."""

    memory: MemoryPath
    """Folder of a memory."""
    document: str | None = None
    """Name or number of the document."""
    tokens: tuple[int, int] | None = None
    """First token and one past the last."""
    model: str = "tiny"
    """The model that the memory was made with: makes the gists around it again."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if (self.document is None) == (self.tokens is None):
            raise ConfigError("forgetting needs either --document or --tokens; give one of them")
        encoder = load_encoder(self.model)
        with Memory.open(self.memory, encoder.identity(), encoder, writable=True) as memory:
            if self.document is not None:
                document = _document(memory, self.document)
                forget_document(memory, document.number, filler_of(encoder))
                span = document.start, document.stop
            else:
                assert self.tokens is not None
                forget_span(memory, *self.tokens, filler_of(encoder))
                span = self.tokens
            swept = sweep(memory, encoder)
        answer(
            {"start": span[0], "stop": span[1], "blocks_swept": swept},
            self.json,
            lambda: print(
                f"tokens {span[0]:,}-{span[1]:,} are forgotten; `megacontext memory compact {self.memory}` takes "
                "their last bytes out of the file"
            ),
        )
        return 0


@dataclass(frozen=True)
class Compact:
    """Write the file of a memory anew, without what was deleted or forgotten."""

    memory: MemoryPath
    """Folder of a memory."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        with Memory.open(self.memory, writable=True) as memory, Progress("records", None) as progress:
            before, after = compact(memory, progress.set)
        answer(
            {"bytes_before": before, "bytes_after": after},
            self.json,
            lambda: print(f"{before:,} bytes before, {after:,} now"),
        )
        return 0


def _document(memory: Memory, name_or_number: str) -> Document:
    """The newest document of that name, or of that number. Raises NodeMissingError."""
    named = memory.documents.named(name_or_number)
    if named is not None:
        return named
    if name_or_number.isascii() and name_or_number.isdigit():
        return memory.documents[int(name_or_number)]
    raise NodeMissingError(
        f"a document must be in the memory, {name_or_number!r} is not; list them with "
        "`megacontext memory inspect MEMORY --documents`"
    )
