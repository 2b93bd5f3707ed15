"""Files of the .ctx interchange format: one file of fixed-size records for each level of a tree.

A file is a header of 64 bytes and then its records, one after another, so that record i stands at byte
64 + i * record size and a memory-mapped file is an array without a copy. All numbers are little-endian.

    offset  0  u32       magic 0x4D434354
            4  u16       version, 1
            6  u16       level: 0 for ids, 1 and up for vectors
            8  u16       block size K
           10  u16       embedding width
           12  u16       dtype: 0 uint32, 1 float16, 2 bfloat16, 3 float32
           14  u64       number of records
           22  char[32]  model name, UTF-8 padded with zero bytes
           54  10 bytes  reserved, zero

What the format leaves open is settled here: reserved bytes are zero and refused otherwise; a file ends with
its last record; ids are one uint32 each, whatever width their header names (1 when written here, the width
of the model in files of others).

Deliberately knows nothing of memories: neither what the vectors mean nor how many of a level belong to how
many ids, which whoever imports a set of files has to check.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from megacontext.errors import ConfigError, NodeMissingError, ShapeError, TreeFormatError

HEADER_BYTES = 64
ADDRESSES_FILE = "addresses.ctx"
"""Addresses of the blocks: a float16 file of level 1, as wide as an address."""
METADATA_FILE = "metadata.json"

_LAYOUT = struct.Struct("<IHHHHHQ32s10s")
_MAGIC = 0x4D434354
_VERSION = 1
_NAME_BYTES = 32
_RESERVED = bytes(10)
_LARGEST_U16 = 65_535


class Dtype(IntEnum):
    """Kinds of record, by the code that stands in a header."""

    UINT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    FLOAT32 = 3

    @property
    def storage(self) -> np.dtype:
        """The numpy type of one number in the file. bfloat16, which numpy lacks, is held as its 16 bits."""
        return np.dtype(("<u4", "<f2", "<u2", "<f4")[self])


def level_file(level: int) -> str:
    """Name of the file of one level: LOD0.ctx for the ids, LOD1.ctx for the gists of blocks, and so on."""
    return f"LOD{level}.ctx"


@dataclass(frozen=True, kw_only=True)
class LevelHeader:
    """What the first 64 bytes of a file say. Raises ConfigError for values that they cannot hold."""

    level: int
    block_size: int
    width: int
    """Numbers of a vector; 1 for ids."""
    dtype: Dtype
    num_entries: int = 0
    model_name: str = ""

    def __post_init__(self) -> None:
        for name, least in (("level", 0), ("block_size", 1), ("width", 1)):
            value = getattr(self, name)
            if not least <= value <= _LARGEST_U16:
                raise ConfigError(
                    f"{name} of a .ctx file must be from {least} to {_LARGEST_U16:,}, got {value:,}; "
                    "the format holds no other"
                )
        if not 0 <= self.num_entries < 2**64:
            raise ConfigError(
                f"num_entries of a .ctx file must be from 0 to 2**64 - 1, got {self.num_entries}; write less"
            )
        if (self.level == 0) != (self.dtype == Dtype.UINT32):
            raise ConfigError(
                "level 0 of a .ctx file must be uint32 and no other level may be, got level "
                f"{self.level} of {self.dtype.name.lower()}; name the dtype that belongs to the level"
            )
        # A lone surrogate, as in the name of a file that is no UTF-8, has no encoding and is refused here too.
        encoded = self.model_name.encode("utf-8", "replace")
        if encoded.decode() != self.model_name or len(encoded) > _NAME_BYTES or b"\0" in encoded:
            raise ConfigError(
                f"model_name of a .ctx file must be at most {_NAME_BYTES} bytes of UTF-8 without zero bytes, "
                f"got {self.model_name!r}; shorten it"
            )

    @property
    def record_bytes(self) -> int:
        """Bytes of one id or one vector."""
        return self.dtype.storage.itemsize * (1 if self.dtype == Dtype.UINT32 else self.width)

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return HEADER_BYTES + self.num_entries * self.record_bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all records: (N,) for ids, (N, width) for vectors."""
        return (self.num_entries,) if self.dtype == Dtype.UINT32 else (self.num_entries, self.width)

    def to_bytes(self) -> bytes:
        """The 64 bytes."""
        name = self.model_name.encode()  # struct pads it with zero bytes
        numbers = (self.level, self.block_size, self.width, self.dtype, self.num_entries)
        return _LAYOUT.pack(_MAGIC, _VERSION, *numbers, name, _RESERVED)

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> LevelHeader:
        """What `to_bytes` wrote. Raises TreeFormatError naming the file `where` for any other content."""
        if len(content) < HEADER_BYTES:
            raise TreeFormatError(
                f"a .ctx file must begin with {HEADER_BYTES} bytes of header, {where} has {len(content)}; "
                "copy or export it again"
            )
        magic, version, level, block_size, width, code, num_entries, name, reserved = _LAYOUT.unpack(
            content[:HEADER_BYTES]
        )
        if magic != _MAGIC:
            raise TreeFormatError(
                f"a .ctx file must begin with 0x{_MAGIC:08X}, {where} begins with 0x{magic:08X}; "
                "it is of another format, give a file that was exported as .ctx"
            )
        if version != _VERSION:
            raise TreeFormatError(
                f"this version reads .ctx files of version {_VERSION}, {where} has {version}; "
                "update MegaContext or export it again"
            )
        if code not in list(Dtype):
            raise TreeFormatError(
                f"dtype of a .ctx file must be 0 to {max(Dtype):d}, {where} has {code}; export it again as one of "
                f"{', '.join(kind.name.lower() for kind in Dtype)}"
            )
        if reserved != _RESERVED:
            raise TreeFormatError(
                f"the reserved bytes of a .ctx header must be zero, those of {where} are not; it is damaged or "
                "of a newer version: copy it again or update MegaContext"
            )
        try:
            return cls(
                level=level,
                block_size=block_size,
                width=width,
                dtype=Dtype(code),
                num_entries=num_entries,
                model_name=name.rstrip(b"\0").decode("utf-8"),
            )
        except (ConfigError, UnicodeDecodeError) as problem:
            raise TreeFormatError(
                f"the header of a .ctx file must be sound, that of {where} is not: {problem}"
            ) from None


class LevelWriter:
    """Writes one file, whole or not at all: it takes its name only when it is complete and on disk.

    A context manager. Leaving it in good order writes the final number of records, syncs and renames
    `path`.tmp to `path`, over a file that stood there; leaving it by an exception removes `path`.tmp. Raises
    ConfigError where the disk refuses.
    """

    def __init__(
        self, path: Path, *, level: int, block_size: int, width: int, dtype: Dtype, model_name: str = ""
    ):
        self.path = path
        self.header = LevelHeader(
            level=level, block_size=block_size, width=width, dtype=dtype, model_name=model_name
        )
        self._aside = path.with_name(path.name + ".tmp")
        self._file: BinaryIO | None = None

    def __enter__(self) -> LevelWriter:
        try:
            self._file = self._aside.open("wb")
            self._file.write(bytes(HEADER_BYTES))  # no magic: what is cut off here never reads as a file
        except OSError as problem:
            raise _unwritable(self.path, problem) from problem
        return self

    def write(self, rows: np.ndarray) -> None:
        """Append records: (n,) ids or (n, width) vectors of the storage type of the dtype, nothing else.

        bfloat16 is given as its bits in uint16. Raises ShapeError, as nothing is rounded or cut in silence.
        """
        assert self._file is not None, "write inside the with block"
        storage = self.header.dtype.storage
        if rows.shape[1:] != self.header.shape[1:] or rows.ndim == 0 or rows.dtype != storage:
            raise ShapeError(
                f"records of {self.path.name} must be {storage.name} of shape "
                f"{('n', *self.header.shape[1:])}, got {rows.dtype.name} of {rows.shape}; convert them first"
            )
        try:
            self._file.write(np.ascontiguousarray(rows))
        except OSError as problem:
            raise _unwritable(self.path, problem) from problem
        self.header = replace(self.header, num_entries=self.header.num_entries + len(rows))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self._file is not None
        try:
            with self._file as file:
                if kind is None:
                    file.seek(0)
                    file.write(self.header.to_bytes())
                    _sync(file)
            if kind is None:
                _publish(self._aside, self.path)
        except OSError as problem:
            if kind is None:
                raise _unwritable(self.path, problem) from problem
        finally:
            self._file = None
            with contextlib.suppress(OSError):  # the renamed file has no such name any more
                self._aside.unlink()


class LevelFile:
    """One file, memory-mapped: nothing of its records is read before it is looked at.

    Made by `open`, and a context manager. The file must stay as it is meanwhile; replacing it by renaming
    another over it is safe.
    """

    def __init__(self, path: Path, header: LevelHeader, mapped: np.memmap):
        self.path = path
        self.header = header
        self._entries: np.ndarray | None = mapped.view(np.ndarray)

    @classmethod
    def open(cls, path: Path) -> LevelFile:
        """Map the file at `path`. Raises TreeFormatError if it is absent or is not exactly what its header says."""
        try:
            with path.open("rb") as file:
                header = LevelHeader.from_bytes(file.read(HEADER_BYTES), str(path))
                size = os.fstat(file.fileno()).st_size
                _check_size(header, size, path)
                mapped = np.memmap(file, header.dtype.storage, "r", HEADER_BYTES, header.shape)
        except OSError as problem:
            raise TreeFormatError(
                f"a .ctx file must be a readable file, {path} is not ({problem.strerror}); check the path"
            ) from None
        return cls(path, header, mapped)

    @property
    def entries(self) -> np.ndarray:
        """Every record, a read-only view of the file: ids (N,) uint32 or vectors (N, width).

        bfloat16 comes as its bits in uint16; `as_float32` gives its numbers.
        """
        assert self._entries is not None, "the file was closed"
        return self._entries

    def as_float32(self, start: int, stop: int) -> np.ndarray:
        """Vectors [start, stop) as a new float32 array (stop - start, width), exact for every dtype.

        Raises NodeMissingError for a range that the file does not hold and ShapeError for ids.
        """
        if self.header.dtype == Dtype.UINT32:
            raise ShapeError(f"only vectors are numbers to read, {self.path} holds ids; take its entries")
        if not 0 <= start <= stop <= self.header.num_entries:
            raise NodeMissingError(
                f"a range of {self.path.name} must lie in [0, {self.header.num_entries}], "
                f"got [{start}, {stop}); ask for what is there"
            )
        rows = self.entries[start:stop]
        if self.header.dtype == Dtype.BFLOAT16:
            # The upper half of a float32 of the same sign, exponent and first seven digits.
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)

    def close(self) -> None:
        """Let go of the file. It stays mapped as long as somebody holds a view of `entries`."""
        self._entries = None

    def __enter__(self) -> LevelFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def write_metadata(folder: Path, mapping: Mapping[str, Any]) -> None:
    """Write `folder`/metadata.json, replacing it only when the whole new file is on disk.

    Raises ConfigError for values that JSON cannot hold, and where the disk refuses.
    """
    path = folder / METADATA_FILE
    aside = path.with_name(path.name + ".tmp")
    try:
        content = json.dumps(mapping, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
        with aside.open("wb") as file:
            file.write(content.encode())
            _sync(file)
        _publish(aside, path)
    except (TypeError, ValueError) as problem:
        raise ConfigError(
            f"{METADATA_FILE} must hold what JSON can hold, but {problem}; give texts, finite numbers, "
            "lists and mappings"
        ) from None
    except OSError as problem:
        raise _unwritable(path, problem) from problem
    finally:
        with contextlib.suppress(OSError):  # the folder may be the trouble; its own sentence is on the way
            aside.unlink()


def read_metadata(folder: Path) -> dict[str, Any]:
    """What `write_metadata` wrote. Raises TreeFormatError if there is none or it is no JSON object."""
    path = folder / METADATA_FILE
    try:
        mapping = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as problem:
        raise TreeFormatError(
            f"an export must hold {METADATA_FILE}, {folder} does not ({problem.strerror}); check the path"
        ) from None
    except (ValueError, RecursionError) as problem:
        raise TreeFormatError(
            f"{METADATA_FILE} must be JSON, {path} is not ({problem}); copy or export it again"
        ) from None
    if not isinstance(mapping, dict):
        raise TreeFormatError(
            f"{METADATA_FILE} must be a JSON object, {path} holds a {type(mapping).__name__}; export it again"
        )
    return mapping


def _check_size(header: LevelHeader, size: int, path: Path) -> None:
    """Before mapping: whatever number of records a header claims, the file must be as long as they are."""
    if size != header.file_bytes:
        raise TreeFormatError(
            f"a .ctx file must be as long as its header says, {header.file_bytes:,} bytes for "
            f"{header.num_entries:,} records, {path} has {size:,} and is "
            f"{'truncated' if size < header.file_bytes else 'too long'}; copy or export it again"
        )


def _unwritable(path: Path, problem: OSError) -> ConfigError:
    return ConfigError(
        f"an export must be able to write {path}, it is not ({problem.strerror}); "
        "check the folder and the space on its disk"
    )


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(aside: Path, path: Path) -> None:
    """Rename, and sync the folder too: without that a crash may still bring back the old name."""
    os.replace(aside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
