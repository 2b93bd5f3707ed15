"""A segment: named arrays about a run of consecutive blocks, in one file that is written once and then mapped.

A file says what it is of (a key), which blocks it covers, and the checksum of everything in it; it is whole, or it is
not taken. It comes to be under its name in one instant, so a reader never meets half of one. A segment without a name
lies in a temporary file that the system removes with the last process that maps it, whatever happens to that process.

Mapped pages are the system's cache: they are given back when it needs room, and count as nobody's own memory.
Deliberately knows neither memories nor what the arrays mean.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megacontext.tree.store import disk_refused

Arrays = Mapping[str, np.ndarray]

_MAGIC = b"MCsegm1\n"
_HEAD = struct.Struct("<8sIII")
"""Magic; bytes of the description; its crc32; the crc32 of the arrays."""
_ALIGNED = 64
_TYPES = {"<f4", "<u8", "<u4", "<u2", "|u1"}
_CHECKED_AT_ONCE = 1 << 22
SUFFIX = ".segment"


@dataclass(frozen=True)
class Segment:
    """Arrays about blocks [first, stop)."""

    first: int
    stop: int
    arrays: Arrays
    file: Path | None = None
    """Where it lies; None for one in RAM or in a temporary file."""

    def __len__(self) -> int:
        """How many blocks it is about."""
        return self.stop - self.first


def write_segment(segment: Segment, folder: Path | None, name: str, key: str, witness: int) -> Segment:
    """Move a segment's arrays into the file `name` in `folder`, or into a temporary one; returns it mapped.

    `witness` is a number that whoever reads it can compute again from what the segment was made of. Raises
    StorageError if the disk refuses; then there is no such file.
    """
    aside = None if folder is None else folder / (name + SUFFIX + ".tmp")
    try:
        if folder is None or aside is None:
            with tempfile.TemporaryFile(prefix="megacontext-") as file:
                _write(file, segment, key, witness)
                return _mapped(file, segment, None)
        folder.mkdir(exist_ok=True)
        with aside.open("w+b") as file:
            _write(file, segment, key, witness)
            named = folder / (name + SUFFIX)
            os.replace(aside, named)
            return _mapped(file, segment, named)
    except OSError as error:
        if aside is not None:
            aside.unlink(missing_ok=True)
        raise disk_refused(folder or Path(tempfile.gettempdir()), error) from error


def read_segment(file: Path, key: str) -> tuple[Segment, int] | None:
    """The segment in `file` and its witness; None if it is not there, not whole, or of another key.

    Every byte is checked once, in pieces, so that nothing of it stays in RAM.
    """
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size < _HEAD.size:
                return None
            raw = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None
    magic, length, description_crc, arrays_crc = _HEAD.unpack_from(raw)
    described = raw[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or len(described) != length or zlib.crc32(described) != description_crc:
        return None
    # From here on the description is what its writer wrote, byte for byte.
    description = json.loads(described)
    if description["key"] != key or description["bytes"] != len(raw):
        return None
    if _checksum(raw, _aligned(_HEAD.size + length)) != arrays_crc:
        return None
    arrays = _arrays(raw, description["arrays"])
    return Segment(description["first"], description["stop"], arrays, file), description["witness"]


def _write(file: BinaryIO, segment: Segment, key: str, witness: int) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in segment.arrays.items()}
    assert all(array.dtype.str in _TYPES for array in arrays.values())
    described = _described(segment, arrays, key, witness)
    at = _aligned(_HEAD.size + len(described))
    file.write(bytes(at))
    crc = 0
    for array in arrays.values():
        raw = array.reshape(-1).view(np.uint8)
        padding = bytes(_aligned(len(raw)) - len(raw))
        crc = zlib.crc32(padding, zlib.crc32(raw, crc))
        file.write(raw)
        file.write(padding)
    file.seek(0)
    file.write(_HEAD.pack(_MAGIC, len(described), zlib.crc32(described), crc))
    file.write(described)
    file.flush()


def _described(segment: Segment, arrays: Arrays, key: str, witness: int) -> bytes:
    """What stands in front of the arrays, as JSON, with where each of them begins."""

    def at(begin: int) -> tuple[list[tuple[str, str, list[int], int]], int]:
        rows = []
        for name, array in arrays.items():
            rows.append((name, array.dtype.str, list(array.shape), begin))
            begin += _aligned(array.nbytes)
        return rows, begin

    told = {"key": key, "first": segment.first, "stop": segment.stop, "witness": witness}
    begin = 0
    while True:
        # Numbers of more digits may push the arrays back, until they fit.
        rows, end = at(begin)
        described = json.dumps({**told, "bytes": end, "arrays": rows}).encode()
        if (needed := _aligned(_HEAD.size + len(described))) == begin:
            return described
        begin = needed


def _mapped(file: BinaryIO, segment: Segment, name: Path | None) -> Segment:
    raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (_, length, _, _) = _HEAD.unpack_from(raw)
    description = json.loads(raw[_HEAD.size : _HEAD.size + length])
    return Segment(segment.first, segment.stop, _arrays(raw, description["arrays"]), name)


def _arrays(raw: mmap.mmap, rows: list[tuple[str, str, list[int], int]]) -> Arrays:
    """Views into a mapped file; it is unmapped with the last of them."""
    return {
        name: np.ndarray(tuple(shape), dtype=np.dtype(kind), buffer=raw, offset=begin)
        for name, kind, shape, begin in rows
    }


def _checksum(raw: mmap.mmap, begin: int) -> int:
    crc = 0
    for start in range(begin, len(raw), _CHECKED_AT_ONCE):
        crc = zlib.crc32(raw[start : start + _CHECKED_AT_ONCE], crc)
    return crc


def _aligned(length: int) -> int:
    return -(-length // _ALIGNED) * _ALIGNED
