"""Records of a tree: keys in time order, float16 vectors, and a checksum on each.

A record is a payload and the crc32 of its table's name, its key and the payload together: a flipped bit, a record
that ended up under another key and one that ended up in another table are all noticed, and a record found loose in a
damaged file says by itself where it belongs.

The key of a node begins with the block at which its span ends, then its level: nodes sort in the order in which a
growing history completes them, a parent directly behind its last child. So a history is written strictly from left to
right, and LMDB fills every page.

Deliberately knows neither stores nor encoders.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from megacontext.errors import CorruptRecordError, ShapeError
from megacontext.tree.layout import CHECKSUM_BYTES, KEY_BYTES, Layout

Record = tuple[bytes, bytes]
"""Key and sealed value."""

TOKENS = "tokens"
"""Finished blocks of ids, under the key of their LOD1 node."""
DOCUMENTS = "documents"
"""Where each source begins and ends, by number."""
NAMES = "names"
"""Number of the newest document of a name, by the name's digest."""
ACCESS = "access"
"""How often a node was unfolded, and how long."""
META = "meta"
"""Format, gist versions, and the end of the history: length and unfinished tail."""
TABLES = (TOKENS, DOCUMENTS, NAMES, ACCESS, META)
"""Those that every memory has; each gist version adds two."""

_RESIDUE = zlib.crc32(zlib.crc32(b"").to_bytes(CHECKSUM_BYTES, "little"))

WAY_OUT = "run `megacontext memory verify` on it, then `repair`"


def gists_table(version: int) -> str:
    """Gists of LOD >= 1 of one version."""
    return f"gists.{version}"


def addresses_table(version: int) -> str:
    """Addresses of LOD1 nodes of one version."""
    return f"addresses.{version}"


def node_keys(lod: int, indices: np.ndarray, block_size: int, part: int = 0) -> list[bytes]:
    """Key of each node of one LOD >= 1: the block at which it ends (6 bytes), its level, the number of the part."""
    ends = (np.asarray(indices, dtype=np.uint64) + np.uint64(1)) * np.uint64(block_size ** (lod - 1))
    return _rows((ends << np.uint64(16) | np.uint64(lod << 8 | part)).astype(">u8"), KEY_BYTES)


def node_of_key(key: bytes, block_size: int) -> tuple[int, int, int] | None:
    """Level, index and part that a key names, or None if it is the key of no node."""
    if len(key) != KEY_BYTES:
        return None
    end, lod, part = int.from_bytes(key[:6], "big"), key[6], key[7]
    if lod < 1 or end < 1 or end % block_size ** (lod - 1):
        return None
    return lod, end // block_size ** (lod - 1) - 1, part


def number_key(number: int) -> bytes:
    """Key of a numbered record, 8 bytes, in the order of the numbers."""
    return number.to_bytes(8, "big")


def seal(table: str, key: bytes, payload: bytes) -> bytes:
    """Payload followed by the checksum."""
    checksum = zlib.crc32(payload, zlib.crc32(key, zlib.crc32(table.encode())))
    return payload + checksum.to_bytes(CHECKSUM_BYTES, "little")


def is_sealed(table: str, key: bytes, value: bytes) -> bool:
    """Whether a value is one that `seal` made for that key of that table."""
    return len(value) >= CHECKSUM_BYTES and seal(table, key, value[:-CHECKSUM_BYTES]) == value


def unseal(table: str, key: bytes, value: bytes, what: str) -> bytes:
    """The payload of one record. Raises CorruptRecordError, naming `what`, if the checksum does not match."""
    if not is_sealed(table, key, value):
        raise CorruptRecordError(f"a stored record must match its checksum, {what} does not; {WAY_OUT}")
    return value[:-CHECKSUM_BYTES]


def seal_rows(table: str, keys: Sequence[bytes], rows: np.ndarray) -> list[Record]:
    """Records of the rows of a two-dimensional array, as they lie in memory."""
    raw = np.ascontiguousarray(rows)
    crc32, tag = zlib.crc32, zlib.crc32(table.encode())
    payloads = _rows(raw, raw.dtype.itemsize * raw.shape[1]) if raw.shape[1] else [b""] * len(raw)
    return [
        (key, payload + crc32(payload, crc32(key, tag)).to_bytes(CHECKSUM_BYTES, "little"))
        for key, payload in zip(keys, payloads, strict=True)
    ]


def unseal_rows(table: str, keys: Sequence[bytes], values: Sequence[bytes], what: str) -> np.ndarray:
    """Payloads of equally long records as uint8 (n, payload bytes).

    Raises CorruptRecordError naming the first key whose checksum does not match, or lengths that differ.
    """
    lengths = set(map(len, values))
    width = max(lengths, default=CHECKSUM_BYTES)
    if len(lengths) > 1 or width < CHECKSUM_BYTES:
        raise CorruptRecordError(f"{what} must be equally long, got {sorted(lengths)} bytes; {WAY_OUT}")
    rows = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), width)
    crc32, tag = zlib.crc32, zlib.crc32(table.encode())
    # Of bytes that end in their own crc32 the crc32 is always the same: no record has to be cut for it.
    checks = [crc32(value, crc32(key, tag)) for key, value in zip(keys, values, strict=True)]
    wrong = np.flatnonzero(np.array(checks, dtype=np.uint32) != _RESIDUE)
    if len(wrong):
        raise CorruptRecordError(
            f"{what} must match their checksums, {len(wrong)} of {len(keys)} do not, the first under "
            f"key {keys[wrong[0]].hex()}; {WAY_OUT}"
        )
    return np.ascontiguousarray(rows[:, :-CHECKSUM_BYTES])


def pack_vectors(
    table: str, lod: int, first: int, half: np.ndarray, layout: Layout, block_size: int
) -> list[Record]:
    """Records of float16 vectors (n, width) of the nodes from `first` on, each in the parts of `layout`."""
    raw = np.ascontiguousarray(half).view(np.uint8).reshape(len(half), layout.payload_bytes)
    indices = np.arange(first, first + len(half))
    return [
        record
        for part, (start, stop) in enumerate(layout.cuts())
        for record in seal_rows(table, node_keys(lod, indices, block_size, part), raw[:, start:stop])
    ]


def pack_tokens(keys: Sequence[bytes], blocks: np.ndarray) -> list[Record]:
    """Records of blocks of ids (n, K): 2 bytes an id where the whole block allows it, else 4.

    The width is a block's own, never the batch's: one by one and all at once give the same bytes.
    """
    narrow = seal_rows(TOKENS, keys, blocks.astype("<u2"))
    wide = np.flatnonzero(blocks.max(axis=1, initial=0) > 0xFFFF)
    for row, record in zip(
        wide, seal_rows(TOKENS, [keys[row] for row in wide], blocks[wide].astype("<u4")), strict=True
    ):
        narrow[row] = record
    return narrow


def unpack_tokens(keys: Sequence[bytes], values: Sequence[bytes], block_size: int) -> np.ndarray:
    """Blocks of ids, int32 (n, K). Raises CorruptRecordError."""
    blocks = np.empty((len(values), block_size), dtype=np.int32)
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    left_over = len(values)
    for id_bytes in (2, 4):
        rows = np.flatnonzero(lengths == id_bytes * block_size + CHECKSUM_BYTES)
        left_over -= len(rows)
        if len(rows):
            chosen = values if len(rows) == len(values) else [values[row] for row in rows]
            names = keys if len(rows) == len(values) else [keys[row] for row in rows]
            blocks[rows] = unseal_rows(TOKENS, names, chosen, "blocks of tokens").view(f"<u{id_bytes}")
    if left_over:
        raise CorruptRecordError(
            f"a block of {block_size} tokens must take {2 * block_size} or {4 * block_size} bytes, "
            f"{left_over} of {len(values)} do not; {WAY_OUT}"
        )
    return blocks


def to_half(vectors: np.ndarray, what: str) -> np.ndarray:
    """Vectors rounded to little-endian float16. Raises ShapeError if one is not finite at that precision."""
    with np.errstate(over="ignore"):
        half = np.asarray(vectors).astype("<f2")
    if not np.isfinite(half).all():
        raise ShapeError(
            f"{what} must be finite and below 65,504 in size to be stored as float16, got "
            f"{np.count_nonzero(~np.isfinite(half))} numbers that are not; scale or normalise the "
            "encoder's output"
        )
    return half


def _rows(array: np.ndarray, row_bytes: int) -> list[bytes]:
    """The bytes of a contiguous array, cut every `row_bytes`."""
    raw = array.tobytes()
    return [raw[start : start + row_bytes] for start in range(0, len(raw), row_bytes)]
