"""Records of a tree: keys in time order, float16 vectors, a checksum on each, and where they are kept.

A record is a payload and the crc32 of key and payload together, so that a flipped bit and a record that ended
up under another key are both noticed. Keys are big-endian unsigned integers: cursor order is time order. A
store moves such records in batches, all or nothing, and knows four tables by name; what the bytes mean is not
its business. `RamStore` keeps the very bytes that a disk store would, which makes "RAM = disk" a property and
no promise.

Deliberately knows neither tokens' meaning nor encoders; the level arithmetic lives in `memory`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from megacontext.errors import CorruptRecordError, ShapeError

TOKENS = "tokens"
"""Full blocks of ids, by block index."""
GISTS = "gists"
"""Gists of LOD >= 1, by level and index."""
ADDRESSES = "addresses"
"""Addresses of LOD1 nodes, by block index."""
META = "meta"
"""Identity of the memory, and its end: length and unfinished tail."""
TABLES = (TOKENS, GISTS, ADDRESSES, META)

Records = Sequence[tuple[bytes, bytes]]
"""Pairs of key and sealed value."""

CHECKSUM_BYTES = 4


class Store(Protocol):
    """Keyed bytes in the tables above. One writer, many readers."""

    def write(self, tables: Mapping[str, Records]) -> None:
        """Put every record of every table in one transaction; when it returns, they are durable."""
        ...

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of `keys`, None where there is none, all from one short snapshot."""
        ...

    @property
    def store_bytes(self) -> int:
        """Bytes that the store takes up: of the file, or of keys and values in memory."""
        ...

    def close(self) -> None: ...


class RamStore:
    """Tables as dictionaries; gone when the process ends."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {name: {} for name in TABLES}

    def write(self, tables: Mapping[str, Records]) -> None:
        for name, records in tables.items():
            self._tables[name].update(records)

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(self._tables[table].get, keys))

    @property
    def store_bytes(self) -> int:
        return sum(len(key) + len(value) for table in self._tables.values() for key, value in table.items())

    def close(self) -> None:
        """Nothing to release."""


def block_keys(indices: np.ndarray) -> list[bytes]:
    """Key of each block: its index, 8 bytes."""
    return _rows(np.ascontiguousarray(indices, dtype=">u8"), 8)


def node_keys(lod: int, indices: np.ndarray) -> list[bytes]:
    """Key of each node of one level: the level in 1 byte, then its index in 8."""
    level = struct.pack(">B", lod)
    return [level + key for key in block_keys(indices)]


def seal(key: bytes, payload: bytes) -> bytes:
    """Payload followed by the crc32 of key and payload."""
    return payload + zlib.crc32(payload, zlib.crc32(key)).to_bytes(CHECKSUM_BYTES, "little")


def unseal(key: bytes, value: bytes, what: str) -> bytes:
    """The payload of one record. Raises CorruptRecordError, naming `what`, if the checksum does not match."""
    payload = value[:-CHECKSUM_BYTES]
    if len(value) < CHECKSUM_BYTES or seal(key, payload) != value:
        raise CorruptRecordError(
            f"a stored record must match its checksum, {what} does not; restore a copy of the memory"
        )
    return payload


def seal_rows(keys: Sequence[bytes], rows: np.ndarray) -> list[tuple[bytes, bytes]]:
    """Records of the rows of a two-dimensional array, as they lie in memory."""
    raw = np.ascontiguousarray(rows)
    payloads = _rows(raw, raw.dtype.itemsize * raw.shape[1])
    return [(key, seal(key, payload)) for key, payload in zip(keys, payloads, strict=True)]


def unseal_rows(keys: Sequence[bytes], values: Sequence[bytes], what: str) -> np.ndarray:
    """Payloads of equally long records as uint8 (n, payload bytes).

    Raises CorruptRecordError naming the first key whose checksum does not match, or lengths that differ.
    """
    lengths = set(map(len, values))
    width = max(lengths, default=CHECKSUM_BYTES)
    if len(lengths) > 1 or width < CHECKSUM_BYTES:
        raise CorruptRecordError(
            f"{what} must be equally long, got {sorted(lengths)} bytes; restore a copy of the memory"
        )
    table = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), width)
    payloads = np.ascontiguousarray(table[:, :-CHECKSUM_BYTES])
    stored = np.ascontiguousarray(table[:, -CHECKSUM_BYTES:]).view("<u4")[:, 0]
    crc32 = zlib.crc32
    computed = [
        crc32(row, crc32(key)) for key, row in zip(keys, _rows(payloads, width - CHECKSUM_BYTES), strict=True)
    ]
    wrong = np.flatnonzero(stored != np.array(computed, dtype=np.uint32))
    if len(wrong):
        key = keys[wrong[0]]
        raise CorruptRecordError(
            f"{what} must match their checksums, {len(wrong)} of {len(keys)} do not, the first under "
            f"key {key.hex()}; restore a copy of the memory"
        )
    return payloads


def pack_tokens(keys: Sequence[bytes], blocks: np.ndarray) -> list[tuple[bytes, bytes]]:
    """Records of blocks of ids (n, K): 2 bytes an id where the whole block allows it, else 4.

    The width is a block's own, never the batch's: one by one and all at once give the same bytes.
    """
    narrow = seal_rows(keys, blocks.astype("<u2"))
    wide = np.flatnonzero(blocks.max(axis=1, initial=0) > 0xFFFF)
    for row, record in zip(
        wide, seal_rows([keys[row] for row in wide], blocks[wide].astype("<u4")), strict=True
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
            blocks[rows] = unseal_rows(names, chosen, "blocks of tokens").view(f"<u{id_bytes}")
    if left_over:
        raise CorruptRecordError(
            f"a block of {block_size} tokens must take {2 * block_size} or {4 * block_size} bytes, "
            f"{left_over} of "
            f"{len(values)} do not; restore a copy of the memory"
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
