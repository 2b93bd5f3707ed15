"""Gists made anew: a version by another encoder is written beside the one that is read, swept over all tokens, and
becomes the one that is read in one transaction.

A sweep remembers in the same transaction as the vectors how far it came, so it goes on after any interruption where
it stopped. It fills whatever a version lacks: all of a new one, the tokens that were appended without its encoder, the
holes that forgetting left.

Deliberately knows nothing of progress bars: a callback is told.
"""

from __future__ import annotations

from collections.abc import Callable

from megacontext.errors import ConfigError, TreeFormatError
from megacontext.tree.appending import chunk_blocks
from megacontext.tree.encoder import Encoder
from megacontext.tree.growth import grow
from megacontext.tree.identity import Catalogue, Identity, Version, check_encoder, check_identity
from megacontext.tree.memory import Memory
from megacontext.tree.records import META, addresses_table, gists_table
from megacontext.tree.store import Batch

Told = Callable[[int, int], None]
"""Told after each chunk: blocks done by this sweep, and of how many."""


def add_version(memory: Memory, identity: Identity, encoder: Encoder) -> Version:
    """A version for `encoder`, covering nothing yet; the one that exists if there is one.

    The first version of a memory becomes the active one at once. Raises TreeFormatError if tokenizer or block size
    differ: then the ids themselves mean something else.
    """
    _require_writable(memory, "adding a gist version")
    check_encoder(identity, encoder)
    end, catalogue = memory.history.state()
    if (known := catalogue.find(identity)) is not None:
        return known
    if (identity.tokenizer, identity.block_size) != (catalogue.tokenizer, catalogue.block_size):
        check_identity(catalogue, identity, memory.history.label)
    version = Version.of(catalogue.next_number(), identity, encoder)
    version = version.with_blocks(0, 0, end.num_tokens // memory.block_size)
    changed = catalogue.with_version(version)
    if not catalogue.active:
        changed = changed.with_active(version.number)
    _change(memory, changed)
    return version


def sweep(memory: Memory, number: int, encoder: Encoder, told: Told | None = None) -> int:
    """Make all vectors that version `number` lacks, and return of how many blocks.

    Each chunk is one transaction with the note of how far the version now reaches: after an interruption the next
    sweep goes on there. Raises ConfigError if the encoder is not the version's.
    """
    _require_writable(memory, "sweeping")
    memory.sync()
    end, catalogue = memory.history.state()
    version = catalogue.version(number)
    if version.encoder != encoder.fingerprint:
        raise ConfigError(
            f"version {number} must be swept by its own encoder, {version.encoder}, got {encoder.fingerprint}; "
            "pass that one, or add a version for the other"
        )
    total = sum(stop - first for first, stop in version.missing(end.num_tokens // memory.block_size))
    done = 0
    while done < total:
        done += _sweep_chunk(memory, number, encoder)
        if told is not None:
            told(done, total)
    return done


def _sweep_chunk(memory: Memory, number: int, encoder: Encoder) -> int:
    """One transaction of a sweep: the first blocks that are missing. Returns how many."""
    history = memory.history
    end, catalogue = history.state()
    num_blocks = end.num_tokens // memory.block_size
    version = catalogue.version(number)
    first, stop = version.missing(num_blocks)[0]
    chunk = chunk_blocks(version.gist_width, memory.block_size)
    stop = min(stop, (first // chunk + 1) * chunk)
    after = version.with_blocks(first, stop, num_blocks)
    batch = Batch()
    blocks = memory.blocks(range(first, stop))
    grow(history, encoder, after, first, blocks, num_blocks, batch)
    changed = catalogue.with_version(after)
    batch.put(META, [end._replace(revision=end.revision + 1).record(), changed.record()])
    memory.store.write(batch)
    return stop - first


def switch(memory: Memory, number: int) -> None:
    """Make version `number` the one that is read where nobody asks for another: one transaction.

    A memory that is open goes on reading the version that it was opened with. Raises TreeFormatError for a version
    that does not cover the history yet: what is read must be whole.
    """
    _require_writable(memory, "switching the gist version")
    memory.sync()
    end, catalogue = memory.history.state()
    version = catalogue.version(number)
    missing = version.missing(end.num_tokens // memory.block_size)
    if missing:
        lacking = sum(stop - first for first, stop in missing)
        raise TreeFormatError(
            f"a gist version must cover the history before it is switched to, version {number} lacks "
            f"{lacking:,} blocks; finish its sweep with `megacontext memory refresh`"
        )
    _change(memory, catalogue.with_active(number))


def drop_version(memory: Memory, number: int) -> None:
    """Remove a version and its vectors: one transaction. Their bytes leave the file with `compact`.

    Raises ConfigError for the active version while there are others: switch first.
    """
    _require_writable(memory, "removing a gist version")
    catalogue = memory.catalogue
    catalogue.version(number)
    if catalogue.active == number and len(catalogue.versions) > 1:
        raise ConfigError(f"the active gist version cannot be removed, {number} is; switch to another first")
    memory.remove_derived()  # vectors of the version may be among it
    tables = set(memory.store.tables())
    drops = [name for name in (gists_table(number), addresses_table(number)) if name in tables]
    _change(memory, catalogue.without_version(number), drops)


def _change(memory: Memory, changed: Catalogue, drops: list[str] | None = None) -> None:
    end = memory.history.end()
    batch = Batch(drops=drops or [])
    batch.put(META, [end._replace(revision=end.revision + 1).record(), changed.record()])
    memory.store.write(batch)


def _require_writable(memory: Memory, what: str) -> None:
    if not memory.writable:
        raise ConfigError(
            f"{what} needs a memory opened with writable=True, {memory.history.label} is open for reading"
        )
