"""What a memory was made with, and the refusal to open it with anything else.

Ids mean nothing without their tokenizer, gists nothing without their encoder. So a memory carries a record
that names its parts by fingerprint, and the widths of its vectors; opening compares, and one sentence says
what differs.

Deliberately knows nothing of how fingerprints are made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from megacontext.errors import ConfigError, TreeFormatError
from megacontext.tree.encoder import GistEncoder
from megacontext.tree.store import META, Store, seal, unseal

FORMAT_VERSION = 1

_FORMAT_KEY = b"format"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Fingerprints of all that a memory's numbers depend on. Memories of different identity never mix."""

    tokenizer: str
    embedding: str
    encoder: str
    block_size: int


@dataclass(frozen=True, kw_only=True)
class Format:
    """What stands in the `format` record: the identity and the widths of the vectors."""

    identity: Identity
    gist_width: int
    address_width: int
    left_tokens: int


def format_record(form: Format) -> tuple[bytes, bytes]:
    """Key and sealed value."""
    payload = json.dumps({"format": FORMAT_VERSION, **asdict(form)}, sort_keys=True).encode()
    return _FORMAT_KEY, seal(_FORMAT_KEY, payload)


def read_format(store: Store, path: str) -> Format:
    """What a store says of itself. Raises TreeFormatError if that is nothing, or of another version."""
    (value,) = store.read(META, [_FORMAT_KEY])
    if value is None:
        raise TreeFormatError(
            f"a memory must say how it was made, {path} does not; it was never finished, delete it "
            "and ingest again"
        )
    stored = json.loads(unseal(_FORMAT_KEY, value, f"the format of {path}"))
    version = stored.pop("format")
    if version != FORMAT_VERSION:
        raise TreeFormatError(
            f"this version reads memories of format {FORMAT_VERSION}, {path} has {version}; update "
            "MegaContext or ingest again"
        )
    return Format(**{**stored, "identity": Identity(**stored["identity"])})


def check_encoder(identity: Identity, encoder: GistEncoder) -> None:
    """Raises ConfigError if an encoder is not the one that an identity names."""
    if encoder.fingerprint != identity.encoder or encoder.block_size != identity.block_size:
        raise ConfigError(
            f"the encoder must be the one that the identity names, {identity.encoder} with blocks of "
            f"{identity.block_size}, got {encoder.fingerprint} with blocks of {encoder.block_size}; "
            "pass the two that belong together"
        )


def check_identity(stored: Identity, wanted: Identity, path: str) -> None:
    """Raises TreeFormatError naming every part that differs."""
    differing = [
        f"{field.name} is {getattr(stored, field.name)!r} there and {getattr(wanted, field.name)!r} here"
        for field in fields(Identity)
        if getattr(stored, field.name) != getattr(wanted, field.name)
    ]
    if differing:
        raise TreeFormatError(
            f"a memory opens only with the parts that it was made with, of {path} {', '.join(differing)}; "
            "use those parts, or ingest the text again into a new memory"
        )


def check_widths(form: Format, encoder: GistEncoder, path: str) -> None:
    """Raises TreeFormatError if vectors of an encoder would not fit among the stored ones."""
    for name in ("gist_width", "address_width", "left_tokens"):
        if getattr(form, name) != getattr(encoder, name):
            raise TreeFormatError(
                f"a memory opens only with an encoder of its widths, of {path} {name} is "
                f"{getattr(form, name)} there and {getattr(encoder, name)} here; use that encoder, or "
                "ingest the text again into a new memory"
            )
