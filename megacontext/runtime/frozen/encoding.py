"""What a frozen reader writes into a memory: addresses at once, gists where they are first read.

Addresses come from AddressNet in seconds for a million tokens and are one gist version, which keeps up with the
history; its gists have no numbers. Gists are pooled caches: the decoder has to read a segment for them, in a second or
more on a CPU. They are a version of their own beside the first, filled segment by segment as contexts come to show its
blocks, and each is made once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from megacontext.errors import TreeFormatError
from megacontext.gistnet.address import AddressNet
from megacontext.models.block_caches import read_segment
from megacontext.models.entries import CacheEntries
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder, filled
from megacontext.runtime.frozen.reader import FrozenReader
from megacontext.runtime.frozen.vocabulary import FrozenVocabulary
from megacontext.tree import Identity, Memory
from megacontext.tree.refresh import add_version


class AddressEncoder:
    """A `GistEncoder` of addresses alone."""

    cached_gists = True
    gist_width = 0

    def __init__(self, reader: FrozenReader):
        self.reader = reader
        self.block_size = reader.config.block_size
        self.address_width = reader.config.address.address_width
        self.left_tokens = reader.config.address.left_tokens
        self.fingerprint = reader.fingerprint("address")

    @property
    def tokenizer(self) -> FrozenVocabulary:
        return self.reader.tokenizer

    def identity(self) -> Identity:
        """Fingerprints that a memory made with this reader carries."""
        return _identity(self.reader, self.fingerprint)

    @torch.inference_mode()
    def encode_blocks(self, tokens: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tokens (n, K), left (n, left_tokens) -> gists (n, 0), addresses (n, A), float32."""
        seen = np.concatenate((left, tokens), axis=1).astype(np.int64)
        addresses = [self.reader.address(rows, AddressNet.BLOCK) for rows in filled(seen)]
        return np.zeros((len(tokens), 0), dtype=np.float32), torch.cat(addresses)[: len(tokens)].numpy()

    def encode_parents(self, children: np.ndarray, lod: int) -> np.ndarray:
        """children (n, K, 0) -> (n, 0)."""
        return np.zeros((len(children), 0), dtype=np.float32)

    @torch.inference_mode()
    def encode_question(self, ids: np.ndarray) -> np.ndarray:
        """Address (A,), float32, of a question's token ids (T,), T >= 1."""
        last = torch.from_numpy(ids[-self.reader.config.address.longest_question :].astype(np.int64))
        return self.reader.address(last[None], AddressNet.QUESTION)[0].numpy()

    def flops_per_token(self) -> float:
        """Arithmetic of ingest per token of history (multiply-adds count two): addresses alone."""
        own = sum(weight.numel() for weight in self.reader.address.parameters())
        return 2 * (self.block_size + self.left_tokens) * own / self.block_size


class PooledGistEncoder:
    """A `SegmentEncoder`: a block's gist is pooled from what the decoder computes for it behind its segment."""

    address_width = 0

    def __init__(self, reader: FrozenReader):
        self.reader = reader
        self.block_size, self.segment_blocks = reader.config.block_size, reader.config.segment_blocks
        layers, heads, width = reader.base.entry_shape
        self.gist_width = 2 * layers * heads * width
        self.left_tokens = (self.segment_blocks - 1) * self.block_size
        self.levels = reader.gists.config.levels
        """Levels that the net has learnt. Above them a gist is zeros, and nothing reads it."""
        made_of = (reader.fingerprint("gists"), self.segment_blocks, reader.decoder.sink_id)
        self.fingerprint = hashlib.blake2b(repr(made_of).encode(), digest_size=8).hexdigest()

    def identity(self) -> Identity:
        """Fingerprints that the version carries."""
        return _identity(self.reader, self.fingerprint)

    @torch.inference_mode()
    def encode_segment(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tokens (n, K) -> gists (n, 2 * L * Hkv * D), addresses (n, 0), float32."""
        count, base = len(tokens), self.reader.base
        # Always a whole segment: a product is rounded differently when it has other rows beside it.
        ids = np.zeros((self.segment_blocks, self.block_size), dtype=np.int64)
        ids[:count] = tokens
        row = torch.from_numpy(ids.reshape(-1)).to(base.device)
        blocks = read_segment(base, row, self.block_size, self.reader.decoder.sink_id).blocks
        return self._pooled(blocks, 1)[:count], np.zeros((count, 0), dtype=np.float32)

    @torch.inference_mode()
    def encode_parents(self, children: np.ndarray, lod: int) -> np.ndarray:
        """children (n, K, E) -> gists (n, E) of level `lod`, float32."""
        if lod > self.levels or not len(children):
            return np.zeros((len(children), self.gist_width), dtype=np.float32)
        base = self.reader.base
        packed = torch.from_numpy(children).to(
            base.device, base.embed(torch.zeros(1, dtype=torch.long)).dtype
        )
        return self._pooled(CacheEntries.unpacked(packed, base), lod)

    def _pooled(self, blocks: CacheEntries, lod: int) -> np.ndarray:
        keys, values = self.reader.gists(blocks.keys, blocks.values, self.reader.base.turn, lod=lod)
        made = CacheEntries(keys[:, :, None], values[:, :, None])  # (L, n, 1, Hkv, D)
        return made.packed()[:, 0].float().cpu().numpy()


@dataclass(frozen=True)
class GistSource:
    """Where a session reads gists, if not in the version of its memory that holds the addresses."""

    memory: Memory
    levels: int
    """Gists above this level are left out of a reading."""


def encoder_of(reader: Bundle | FrozenReader) -> BundleEncoder | AddressEncoder:
    """Who writes the version of a memory that keeps up with the history, and addresses questions."""
    return AddressEncoder(reader) if isinstance(reader, FrozenReader) else BundleEncoder(reader)


def create_memory(reader: FrozenReader, path: Path | str | None) -> Memory:
    """An empty memory for a reader, open for writing. Raises what `Memory.create` raises."""
    addresses, gists = AddressEncoder(reader), PooledGistEncoder(reader)
    memory = Memory.create(path, addresses.identity(), addresses)
    add_version(memory, gists.identity(), gists)
    return memory


def open_memory(reader: FrozenReader, path: Path | str, *, writable: bool = False) -> Memory:
    """A memory that was made for a reader. Gists made while it is read are kept where it is writable.

    Raises what `Memory.open` raises.
    """
    addresses = AddressEncoder(reader)
    return Memory.open(path, addresses.identity(), addresses, writable)


def gists_of(reader: FrozenReader, memory: Memory) -> GistSource:
    """The reader's gists of a memory. Raises TreeFormatError for one that was not made for them."""
    gists = PooledGistEncoder(reader)
    version = memory.catalogue.find(gists.identity())
    if version is None and memory.writable:
        version = add_version(memory, gists.identity(), gists)
    if version is None:
        raise TreeFormatError(
            f"a memory that is only read must hold the reader's gist version {gists.fingerprint}, "
            f"{memory.history.label} does not; open it once for writing, or use the reader that it was made with"
        )
    return GistSource(memory.reading(version.number, gists), min(gists.levels, reader.config.levels))


def _identity(reader: FrozenReader, encoder: str) -> Identity:
    return Identity(
        tokenizer=reader.tokenizer.fingerprint,
        embedding=reader.decoder.fingerprint,
        encoder=encoder,
        block_size=reader.config.block_size,
    )
