"""Taking tokens out of a history, and their last trace out of the file.

`forget` puts a filler in the place of the tokens and deletes every vector that was computed from them: gists of their
blocks and of all ancestors, addresses of their blocks and of those behind whose window reached back to them, in every
gist version. One transaction. Nothing moves on the timeline, so citations of everything else stay true; the holes are
filled by the next sweep, from the filler and what stands around it.

What was derived from the tokens in files beside the memory goes before they do, all of it, so that no interruption
leaves it behind. LMDB's pages keep what was deleted until they are used again: `compact` writes all records that are
left into a new file, in key order, and puts it in the place of the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from megacontext.errors import ConfigError, CorruptRecordError, NodeMissingError
from megacontext.tree.documents import name_key
from megacontext.tree.history import End
from megacontext.tree.identity import Version, union
from megacontext.tree.lmdb_store import LmdbStore
from megacontext.tree.memory import Memory
from megacontext.tree.records import (
    ACCESS,
    DOCUMENTS,
    META,
    NAMES,
    TOKENS,
    WAY_OUT,
    addresses_table,
    gists_table,
    is_sealed,
    node_keys,
    pack_tokens,
)
from megacontext.tree.store import Batch, Store, scan_all

_RECORDS_AT_ONCE = 1 << 15


def forget_document(memory: Memory, number: int, filler: int) -> None:
    """Take a document out: its tokens, its name, its tags, and all vectors that knew it."""
    document = memory.documents[number]
    if document.state == "forgotten":
        raise NodeMissingError(
            f"a document can be forgotten once, document {number} has been; nothing is left of it"
        )
    batch = Batch()
    batch.put(DOCUMENTS, [document.forgotten().record()])
    newest = memory.documents.named(document.name)
    if newest is not None and newest.number == number:
        batch.delete(NAMES, [name_key(document.name)])
    _forget(memory, document.start, document.stop, filler, batch)


def forget_span(memory: Memory, start: int, stop: int, filler: int) -> None:
    """Take tokens [start, stop) out, wherever they come from. Documents keep name and place."""
    if not 0 <= start < stop <= memory.num_tokens:
        raise NodeMissingError(
            f"tokens to forget must lie in [0, {memory.num_tokens}), got [{start}, {stop}); name some that are there"
        )
    _forget(memory, start, stop, filler, Batch())


def _forget(memory: Memory, start: int, stop: int, filler: int, batch: Batch) -> None:
    """Add to `batch` what forgetting tokens [start, stop) changes, and write it."""
    if not memory.writable:
        raise ConfigError(
            f"forgetting needs a memory opened with writable=True, {memory.history.label} is open for reading"
        )
    memory.sync()
    end, catalogue = memory.history.state()
    num_blocks = end.num_tokens // memory.block_size
    end = _replace_tokens(memory, start, stop, filler, end, batch)
    versions = tuple(
        _without_vectors(version, start, stop, memory.block_size, num_blocks, batch)
        for version in catalogue.versions
    )
    ranges = [*catalogue.forgotten, (start, stop)] if stop > start else catalogue.forgotten
    changed = replace(catalogue, versions=versions, forgotten=union(ranges))
    batch.put(META, [end._replace(revision=end.revision + 1).record(), changed.record()])
    for lod, first, last in _nodes_over(start, stop, memory.block_size, num_blocks):
        batch.delete(ACCESS, node_keys(lod, np.arange(first, last), memory.block_size))
    memory.remove_derived()
    memory.store.write(batch)


def _replace_tokens(memory: Memory, start: int, stop: int, filler: int, end: End, batch: Batch) -> End:
    """Filler in the place of the tokens; returns the end with its tail changed."""
    size = memory.block_size
    num_blocks = end.num_tokens // size
    first, last = min(start // size, num_blocks), min(-(-stop // size), num_blocks)
    if last > first:
        blocks = memory.blocks(range(first, last))
        blocks.reshape(-1)[max(0, start - first * size) : stop - first * size] = filler
        batch.put(TOKENS, pack_tokens(node_keys(1, np.arange(first, last), size), blocks))
    tail, begin = end.tail.copy(), num_blocks * size
    tail[max(0, start - begin) : max(0, stop - begin)] = filler
    return end._replace(tail=tail)


def _without_vectors(
    version: Version, start: int, stop: int, block_size: int, num_blocks: int, batch: Batch
) -> Version:
    """Delete what the version computed from tokens [start, stop); returns it with the hole."""
    if stop <= start:
        return version
    # An address has seen the tokens in front of its block as well.
    reach = stop + version.left_tokens
    first, last = start // block_size, min(-(-reach // block_size), num_blocks)
    gists = gists_table(version.number)
    for lod, one, other in _nodes_over(first * block_size, last * block_size, block_size, num_blocks):
        indices = np.arange(one, other)
        for part in range(version.gist_layout.parts):
            batch.delete(gists, node_keys(lod, indices, block_size, part))
        for part in range(version.address_layout.parts if lod == 1 else 0):
            batch.delete(addresses_table(version.number), node_keys(1, indices, block_size, part))
    return version.without(first, last)


def _nodes_over(start: int, stop: int, block_size: int, num_blocks: int) -> Iterator[tuple[int, int, int]]:
    """Level, first and last + 1 of the complete nodes with a token in [start, stop), level by level."""
    lod, width, count = 1, block_size, num_blocks
    while count > 0:
        first, last = start // width, min(-(-stop // width), count)
        if first < last:
            yield lod, first, last
        lod, width, count = lod + 1, width * block_size, count // block_size


def compact(memory: Memory, told: Callable[[int], None] | None = None) -> tuple[int, int]:
    """Write the memory's file anew without what was deleted; returns its bytes before and after.

    What was derived from the memory beside it is removed, and made again when it is next asked for.
    The new file takes the old one's place at one instant: whatever interrupts, the memory is whole. Every record is
    checked on the way. `told` hears how many records have been written. Raises CorruptRecordError and leaves the old
    file in place if a record is damaged: `repair` is for that.
    """
    if not isinstance(memory.store, LmdbStore) or not memory.writable:
        raise ConfigError(
            f"compacting needs a memory on disk opened with writable=True, {memory.history.label} is not one; "
            "open it so"
        )
    memory.sync()
    memory.remove_derived()
    before = memory.store_bytes
    memory.store.replace(_all_records(memory.store, told))
    return before, memory.store_bytes


def _all_records(store: Store, told: Callable[[int], None] | None) -> Iterator[Batch]:
    count = 0
    for table in store.tables():
        batch = Batch()
        for key, value in scan_all(store, table):
            if not is_sealed(table, key, value):
                raise CorruptRecordError(
                    f"a stored record must match its checksum, the one under key {key.hex()} of {table} does not; "
                    f"{WAY_OUT}"
                )
            batch.put(table, [(key, value)])
            count += 1
            if count % _RECORDS_AT_ONCE == 0:
                yield batch
                batch = Batch()
                if told is not None:
                    told(count)
        yield batch
    if told is not None:
        told(count)
