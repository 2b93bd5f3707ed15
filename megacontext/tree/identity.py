"""What a memory was made with, and the refusal to open it with anything else.

Ids mean nothing without their tokenizer, gists nothing without their encoder. So a memory carries a record that names
its parts by fingerprint. Tokenizer and block size are the memory's for life. Gists can be made anew: each `Version`
names the encoder and the embedding table that its vectors came from, and says how much of the history it covers.

Deliberately knows nothing of how fingerprints are made, nor of vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from megacontext.errors import ConfigError, CorruptRecordError, TreeFormatError
from megacontext.tree.encoder import Encoder
from megacontext.tree.layout import Layout, plan
from megacontext.tree.records import META, WAY_OUT, Record, seal, unseal

FORMAT_VERSION = 2
FORMAT_KEY = b"format"

BlockRange = tuple[int, int]
"""Blocks [first, stop)."""
TokenRange = tuple[int, int]
"""Tokens [start, stop)."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Fingerprints of all that a memory's numbers depend on."""

    tokenizer: str
    embedding: str
    encoder: str
    block_size: int


@dataclass(frozen=True, kw_only=True)
class Version:
    """One set of gists and addresses: who made it, how wide it is, how much of the history it covers."""

    number: int
    embedding: str
    encoder: str
    gist_width: int
    address_width: int
    left_tokens: int
    gist_part_bytes: int
    """Where a gist is cut into records."""
    address_part_bytes: int
    frontier: int | None = None
    """Blocks covered from the start, but for the holes; None where it keeps up with the history."""
    holes: tuple[BlockRange, ...] = ()
    """Blocks below the frontier without valid vectors, in order and apart."""

    @classmethod
    def of(cls, number: int, identity: Identity, encoder: Encoder) -> Version:
        """A version that covers nothing yet."""
        return cls(
            number=number,
            embedding=identity.embedding,
            encoder=identity.encoder,
            gist_width=encoder.gist_width,
            address_width=encoder.address_width,
            left_tokens=encoder.left_tokens,
            gist_part_bytes=plan(2 * encoder.gist_width).part_bytes,
            address_part_bytes=plan(2 * encoder.address_width).part_bytes,
            frontier=0,
        )

    @property
    def gist_layout(self) -> Layout:
        return Layout(2 * self.gist_width, self.gist_part_bytes)

    @property
    def address_layout(self) -> Layout:
        return Layout(2 * self.address_width, self.address_part_bytes)

    def missing(self, num_blocks: int) -> list[BlockRange]:
        """Ranges of blocks that a history of `num_blocks` has and this version does not cover, in order."""
        end = num_blocks if self.frontier is None else min(self.frontier, num_blocks)
        return [*self.holes, (end, num_blocks)] if end < num_blocks else list(self.holes)

    def covers(self, first: np.ndarray, stop: np.ndarray, num_blocks: int) -> np.ndarray:
        """Which of the ranges of blocks [first, stop) this version covers whole, bool like `first`."""
        whole = np.asarray(stop) <= num_blocks
        for start, end in self.missing(num_blocks):
            whole &= (stop <= start) | (first >= end)
        return whole

    def without(self, first: int, stop: int) -> Version:
        """The same with blocks [first, stop) missing."""
        end = stop if self.frontier is None else min(stop, self.frontier)
        return self if end <= first else replace(self, holes=union([*self.holes, (first, end)]))

    def with_blocks(self, first: int, stop: int, num_blocks: int) -> Version:
        """The same with blocks [first, stop) covered; up to `num_blocks` it keeps up with the history again."""
        holes = [
            piece
            for start, end in self.holes
            for piece in ((start, min(end, first)), (max(start, stop), end))
            if piece[0] < piece[1]
        ]
        frontier = self.frontier
        if frontier is not None and first <= frontier:
            frontier = max(frontier, stop)
        if frontier is not None and frontier >= num_blocks:
            frontier = None
        return replace(self, frontier=frontier, holes=union(holes))

    def left_behind(self, num_blocks: int) -> Version:
        """The same in a history that goes on beyond `num_blocks` without it."""
        return replace(self, frontier=num_blocks) if self.frontier is None else self


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What stands in the `format` record: the parts for life, and the gist versions."""

    tokenizer: str
    block_size: int
    versions: tuple[Version, ...] = ()
    active: int = 0
    """Number of the version that is read where nobody asks for another; 0 for none."""
    forgotten: tuple[TokenRange, ...] = ()
    """Tokens that were taken out on request: a filler stands in their place."""
    lost: tuple[TokenRange, ...] = ()
    """Tokens that damage took and no repair could find: a filler stands in their place."""

    def version(self, number: int) -> Version:
        """The version of that number. Raises TreeFormatError."""
        for version in self.versions:
            if version.number == number:
                return version
        known = ", ".join(str(version.number) for version in self.versions) or "none"
        raise TreeFormatError(
            f"a gist version must be one that the memory has ({known}), got {number}; pick one"
        )

    def find(self, identity: Identity) -> Version | None:
        """The newest version that was made with the parts of `identity`."""
        fitting = [
            version
            for version in self.versions
            if (version.embedding, version.encoder) == (identity.embedding, identity.encoder)
        ]
        return fitting[-1] if fitting else None

    def with_version(self, changed: Version) -> Catalogue:
        """The same with one version added, or in the place of the one of its number."""
        others = [version for version in self.versions if version.number != changed.number]
        return replace(self, versions=tuple(sorted([*others, changed], key=lambda version: version.number)))

    def without_version(self, number: int) -> Catalogue:
        """The same with one version less; none is active if it was that one."""
        others = tuple(version for version in self.versions if version.number != number)
        return replace(self, versions=others, active=0 if self.active == number else self.active)

    def with_active(self, number: int) -> Catalogue:
        """The same with another version to be read."""
        return replace(self, active=number)

    def next_number(self) -> int:
        return 1 + max((version.number for version in self.versions), default=0)

    def record(self) -> Record:
        """Key and sealed value of the `format` record."""
        payload = json.dumps({"format": FORMAT_VERSION, **asdict(self)}, sort_keys=True).encode()
        return FORMAT_KEY, seal(META, FORMAT_KEY, payload)


def read_catalogue(value: bytes | None, path: str) -> Catalogue:
    """What a memory says of itself. Raises TreeFormatError if that is nothing, or of another format."""
    if value is None:
        raise CorruptRecordError(f"a memory must say how it was made, {path} does not; {WAY_OUT}")
    stored = json.loads(unseal(META, FORMAT_KEY, value, f"the format of {path}"))
    form = stored.pop("format")
    if form != FORMAT_VERSION:
        raise TreeFormatError(
            f"this version reads memories of format {FORMAT_VERSION}, {path} has {form}; update "
            "MegaContext or ingest again"
        )
    versions = tuple(
        Version(**{**version, "holes": _pairs(version["holes"])}) for version in stored.pop("versions")
    )
    forgotten, lost = _pairs(stored.pop("forgotten")), _pairs(stored.pop("lost"))
    return Catalogue(**stored, versions=versions, forgotten=forgotten, lost=lost)


def check_encoder(identity: Identity, encoder: Encoder) -> None:
    """Raises ConfigError if an encoder is not the one that an identity names."""
    if encoder.fingerprint != identity.encoder or encoder.block_size != identity.block_size:
        raise ConfigError(
            f"the encoder must be the one that the identity names, {identity.encoder} with blocks of "
            f"{identity.block_size}, got {encoder.fingerprint} with blocks of {encoder.block_size}; "
            "pass the two that belong together"
        )


def check_identity(catalogue: Catalogue, wanted: Identity, path: str) -> Version | None:
    """The version that fits `wanted`, None if the memory has no gists at all yet.

    Raises TreeFormatError naming every part that differs, and what to do.
    """
    for_life = _differing(catalogue, wanted, ("tokenizer", "block_size"))
    if for_life:
        raise TreeFormatError(
            f"a memory opens only with the parts that it was made with, of {path} {for_life}; use those "
            "parts, or ingest the text again into a new memory"
        )
    version = catalogue.find(wanted)
    if version is None and catalogue.versions:
        active = catalogue.version(catalogue.active or catalogue.versions[-1].number)
        raise TreeFormatError(
            f"a memory opens only with the parts that it was made with, of {path} "
            f"{_differing(active, wanted, ('embedding', 'encoder'))}; use those parts, write gists of yours "
            "beside them with `megacontext memory refresh`, or ingest the text again into a new memory"
        )
    return version


def check_widths(version: Version, encoder: Encoder, path: str) -> None:
    """Raises TreeFormatError if vectors of an encoder would not fit among the stored ones."""
    for name in ("gist_width", "address_width", "left_tokens"):
        if getattr(version, name) != getattr(encoder, name):
            raise TreeFormatError(
                f"a memory opens only with an encoder of its widths, of {path} {name} is "
                f"{getattr(version, name)} there and {getattr(encoder, name)} here; use that encoder, or "
                "ingest the text again into a new memory"
            )


def check_maker(version: Version, encoder: Encoder, path: str) -> None:
    """Raises TreeFormatError if an encoder is not the one that made a version."""
    if version.encoder != encoder.fingerprint:
        raise TreeFormatError(
            f"gist version {version.number} of {path} is made by the encoder {version.encoder}, got "
            f"{encoder.fingerprint}; pass that one, or add a version for the other"
        )
    check_widths(version, encoder, path)


def _differing(stored: Catalogue | Version, wanted: Identity, names: Sequence[str]) -> str:
    assert set(names) <= {field.name for field in fields(Identity)}
    return ", ".join(
        f"{name} is {getattr(stored, name)!r} there and {getattr(wanted, name)!r} here"
        for name in names
        if getattr(stored, name) != getattr(wanted, name)
    )


def _pairs(ranges: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((start, stop) for start, stop in ranges)


def union(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same blocks or tokens as ranges in order and apart."""
    joined: list[BlockRange] = []
    for start, stop in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return tuple(joined)
