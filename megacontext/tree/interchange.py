"""A memory as a folder of .ctx files, and back, byte for byte.

    LOD0.ctx        every id, the unfinished block included     addresses.ctx   addresses of blocks, float16
    LOD1.ctx, ...   gists of one version, float16               metadata.json   parts, documents, what was forgotten

A folder takes its name only when all of it is on disk, and so does the memory that is made of it. Gists of other
programs may be float32 or bfloat16; they are rounded to float16, as every gist in a memory is.

Deliberately leaves access statistics and other gist versions behind: they are the memory's own affair.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.errors import ConfigError, StorageError, TreeFormatError
from megacontext.spans import complete_counts
from megacontext.tree.ctx import (
    ADDRESSES_FILE,
    Dtype,
    LevelFile,
    LevelWriter,
    level_file,
    read_metadata,
    write_metadata,
)
from megacontext.tree.documents import Document, name_record
from megacontext.tree.identity import Identity, Version, union
from megacontext.tree.layout import plan
from megacontext.tree.memory import Memory
from megacontext.tree.records import (
    DOCUMENTS,
    META,
    NAMES,
    addresses_table,
    gists_table,
    pack_vectors,
    to_half,
)
from megacontext.tree.store import Batch

FORMAT = 1
_ROWS_AT_ONCE = 4096
_TOKENS_AT_ONCE = 1 << 17

Told = Callable[[int], None]
"""Told how many records have been written."""


def export_memory(memory: Memory, folder: Path, told: Told | None = None) -> None:
    """Write `memory` as the new folder `folder`. Raises ConfigError if that exists.

    Raises StaleGistError if the version that is read does not cover the history; a memory without gists is exported
    as ids alone.
    """
    aside = _aside(folder)
    try:
        _export(memory, aside, told)
        os.replace(aside, folder)
    except OSError as problem:
        raise StorageError(
            f"an export needs a disk that takes it, {folder} refused ({problem}); make room or choose another"
        ) from problem
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _export(memory: Memory, folder: Path, told: Told | None) -> None:
    end, catalogue = memory.history.state()
    version = memory.version if catalogue.versions else None
    # The header has room for 32 bytes of UTF-8, and no half characters.
    name = (version.encoder if version else catalogue.tokenizer).encode()[:32].decode(errors="ignore")
    written = 0

    def level(file: str, lod: int, width: int, dtype: Dtype, count: int, read: Any, step: int) -> None:
        nonlocal written
        path, size = folder / file, memory.block_size
        with LevelWriter(
            path, level=lod, block_size=size, width=width, dtype=dtype, model_name=name
        ) as writer:
            for start in range(0, count, step):
                rows = read(start, min(start + step, count))
                writer.write(rows.astype(dtype.storage))
                written += len(rows)
                if told is not None:
                    told(written)

    level(level_file(0), 0, 1, Dtype.UINT32, end.num_tokens, memory.tokens, _TOKENS_AT_ONCE)
    counts = complete_counts(end.num_tokens, memory.block_size)
    if version is not None:
        for lod in range(1, len(counts)):
            level(
                level_file(lod),
                lod,
                version.gist_width,
                Dtype.FLOAT16,
                counts[lod],
                lambda start, stop, lod=lod: memory.gists(lod, np.arange(start, stop)),
                _ROWS_AT_ONCE,
            )
        if version.address_width:
            width, blocks = version.address_width, end.num_tokens // memory.block_size
            level(ADDRESSES_FILE, 1, width, Dtype.FLOAT16, blocks, memory.addresses, _ROWS_AT_ONCE)
    write_metadata(
        folder,
        {
            "format": FORMAT,
            "num_tokens": end.num_tokens,
            "block_size": memory.block_size,
            "tokenizer": catalogue.tokenizer,
            "gists": None
            if version is None
            else {
                "embedding": version.embedding,
                "encoder": version.encoder,
                "gist_width": version.gist_width,
                "address_width": version.address_width,
                "left_tokens": version.left_tokens,
            },
            "documents": [asdict(document) for document in memory.documents],
            "forgotten": catalogue.forgotten,
            "lost": catalogue.lost,
        },
    )


def import_memory(folder: Path, path: Path, told: Told | None = None) -> None:
    """Make the new memory `path` of an export.

    Raises ConfigError if that exists, TreeFormatError for what is no export or not all of one. Nothing stands under
    `path` unless all of the export could be read.
    """
    described = read_metadata(folder)
    aside = _aside(path, make=False)
    try:
        _import(folder, described, aside, told)
        os.replace(aside, path)
    except (KeyError, TypeError, ValueError) as problem:
        raise TreeFormatError(
            f"the metadata of an export must describe a memory, that of {folder} does not ({problem!r}); "
            "export it again"
        ) from None
    except OSError as problem:
        raise StorageError(
            f"a new memory needs a disk that takes it, {path} refused ({problem}); make room or choose another"
        ) from problem
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _import(folder: Path, described: dict[str, Any], path: Path, told: Told | None) -> None:
    if described["format"] != FORMAT:
        raise TreeFormatError(
            f"this version reads exports of format {FORMAT}, {folder} has {described['format']}; update MegaContext"
        )
    size, num_tokens = int(described["block_size"]), int(described["num_tokens"])
    made_by = described["gists"] or {"embedding": "", "encoder": ""}
    identity = Identity(
        tokenizer=described["tokenizer"],
        embedding=made_by["embedding"],
        encoder=made_by["encoder"],
        block_size=size,
    )
    with Memory.create(path, identity, None) as memory:
        with _level(folder, level_file(0), 0, size, num_tokens) as ids:
            for start in range(0, num_tokens, _TOKENS_AT_ONCE):
                memory.append(ids.entries[start : start + _TOKENS_AT_ONCE])
                if told is not None:
                    told(min(start + _TOKENS_AT_ONCE, num_tokens))
        if described["gists"]:
            _import_gists(folder, described["gists"], memory, identity, num_tokens, told)
        _import_rest(described, memory)


def _import_gists(
    folder: Path,
    made_by: dict[str, Any],
    memory: Memory,
    identity: Identity,
    num_tokens: int,
    told: Told | None,
) -> None:
    version = Version(
        number=1,
        embedding=identity.embedding,
        encoder=identity.encoder,
        gist_width=int(made_by["gist_width"]),
        address_width=int(made_by["address_width"]),
        left_tokens=int(made_by["left_tokens"]),
        gist_part_bytes=plan(2 * int(made_by["gist_width"])).part_bytes,
        address_part_bytes=plan(2 * int(made_by["address_width"])).part_bytes,
    )
    counts = complete_counts(num_tokens, memory.block_size)
    tables = [
        (gists_table(1), level_file(lod), lod, version.gist_layout, version.gist_width)
        for lod in range(1, len(counts))
    ]
    if version.address_width:
        tables.append((addresses_table(1), ADDRESSES_FILE, 1, version.address_layout, version.address_width))
    written = num_tokens
    for table, file, lod, layout, width in tables:
        count = num_tokens // memory.block_size**lod
        with _level(folder, file, lod, memory.block_size, count, width) as level:
            for start in range(0, count, _ROWS_AT_ONCE):
                rows = to_half(
                    level.as_float32(start, min(start + _ROWS_AT_ONCE, count)), f"vectors of {file}"
                )
                batch = Batch()
                batch.put(table, pack_vectors(table, lod, start, rows, layout, memory.block_size))
                memory.store.write(batch)
                written += len(rows)
                if told is not None:
                    told(written)
    end, catalogue = memory.history.state()
    batch = Batch()
    batch.put(
        META,
        [
            end._replace(revision=end.revision + 1).record(),
            replace(catalogue, versions=(version,), active=1).record(),
        ],
    )
    memory.store.write(batch)


def _import_rest(described: dict[str, Any], memory: Memory) -> None:
    """Documents, and what was forgotten or lost."""
    documents = [Document(**{**one, "tags": tuple(one["tags"])}) for one in described["documents"]]
    reached = 0
    for number, document in enumerate(documents):
        if document.number != number or not reached <= document.start <= document.stop <= memory.num_tokens:
            raise TreeFormatError(
                f"documents of an export must be numbered and follow one another, document {number} does not; "
                "export it again"
            )
        reached = document.stop
    end, catalogue = memory.history.state()
    ranges = {
        kind: union([(int(start), int(stop)) for start, stop in described[kind]])
        for kind in ("forgotten", "lost")
    }
    batch = Batch()
    batch.put(DOCUMENTS, [document.record() for document in documents])
    batch.put(NAMES, dict(name_record(document) for document in documents if document.name).items())
    changed = end._replace(num_documents=len(documents), revision=end.revision + 1)
    batch.put(META, [changed.record(), replace(catalogue, **ranges).record()])
    memory.store.write(batch)


def _level(
    folder: Path, file: str, lod: int, block_size: int, count: int, width: int | None = None
) -> LevelFile:
    """One file of an export, checked against what the metadata says. Raises TreeFormatError."""
    level = LevelFile.open(folder / file)
    header = level.header
    found = (header.level, header.block_size, header.num_entries, width and header.width)
    if found != (lod, block_size, count, width):
        level.close()
        raise TreeFormatError(
            f"{folder / file} must hold level {lod} of {count:,} records in blocks of {block_size}"
            f"{f' and width {width}' if width else ''}, as the metadata says, got level {header.level} of "
            f"{header.num_entries:,} in blocks of {header.block_size} and width {header.width}; export it again"
        )
    return level


def _aside(path: Path, make: bool = True) -> Path:
    """A free name beside `path` for what is not whole yet. Raises ConfigError if `path` is taken."""
    if path.exists():
        raise ConfigError(f"a new folder needs a path that does not exist yet, {path} does; choose another")
    aside = path.with_name(f"{path.name}.part-{os.getpid()}")
    if make:
        try:
            aside.mkdir(parents=True)
        except OSError as problem:
            raise StorageError(
                f"a new folder must be made, {path} cannot be ({problem.strerror}); choose another path"
            ) from None
    return aside
