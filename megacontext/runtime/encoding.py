"""A bundle's networks as the gist encoder that a memory asks for: numpy in, numpy out.

A matrix product is rounded differently when it has other rows beside it. So every batch is filled up to one size: a
block gets the same vectors whether it was appended alone or with a book, and both build the same tree, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from megacontext.gistnet.address import AddressNet
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.gist_kinds import gist_maker
from megacontext.tokenizer import Tokenizer
from megacontext.tree import Identity

_BATCH = 64
"""Rows encoded at once, always. As fast as any other size on one core and on two (50,000 to 90,000 tokens/s for the
tiny model); a single block pays for all the rows, which is some 35 ms on one core."""


class BundleEncoder:
    """Gists of the bundle's kind (`gist_kinds`), addresses by AddressNet."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.block_size = bundle.config.block_size
        self._gists = gist_maker(bundle)
        self.cached_gists = self._gists.cached
        """Whether a gist is an entry of keys and values, as `models.entries` packs it, or an input embedding."""
        self.gist_width = bundle.gist_width
        self.address_width = bundle.config.address.address_width
        self._address_left = bundle.config.address.left_tokens
        self.left_tokens = max(self._address_left, self._gists.left_tokens)
        self.fingerprint = bundle.fingerprint(*self._gists.made_of, "address")

    @property
    def tokenizer(self) -> Tokenizer:
        return self.bundle.tokenizer

    def identity(self) -> Identity:
        """Fingerprints that a memory made with this bundle carries."""
        return Identity(
            tokenizer=self.bundle.tokenizer.fingerprint,
            embedding=self.bundle.embedding_fingerprint(),
            encoder=self.fingerprint,
            block_size=self.block_size,
        )

    @torch.inference_mode()
    def encode_blocks(self, tokens: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tokens (n, K), left (n, left_tokens) -> gists (n, E), addresses (n, A), all float32."""
        gists, addresses = [], []
        for seen in filled(np.concatenate((left, tokens), axis=1).astype(np.int64)):
            gists.append(self._gists.of_blocks(seen[:, self.left_tokens - self._gists.left_tokens :]))
            addresses.append(
                self.bundle.address(seen[:, self.left_tokens - self._address_left :], AddressNet.BLOCK)
            )
        count = len(tokens)
        return torch.cat(gists)[:count].numpy(), torch.cat(addresses)[:count].numpy()

    @torch.inference_mode()
    def encode_parents(self, children: np.ndarray, lod: int) -> np.ndarray:
        """children (n, K, E) -> gists (n, E) of level `lod`, float32."""
        gists = [self._gists.of_gists(batch, lod) for batch in filled(children)]
        return torch.cat(gists)[: len(children)].numpy()

    @torch.inference_mode()
    def encode_question(self, ids: np.ndarray) -> np.ndarray:
        """Address (A,), float32, of a question's token ids (T,), T >= 1."""
        last = torch.from_numpy(ids[-self.bundle.config.address.longest_question :].astype(np.int64))
        return self.bundle.address(last[None], AddressNet.QUESTION)[0].numpy()

    def flops_per_token(self) -> float:
        """Arithmetic of ingest per token of history (multiply-adds count two), from the sizes of the networks."""
        per_block, per_parent = self._gists.flops(self.block_size)
        seen = self.block_size + self._address_left
        own = sum(
            p.numel() for name, p in self.bundle.address.named_parameters() if not name.startswith("token")
        )
        return (per_block + per_parent / (self.block_size - 1) + 2 * seen * own) / self.block_size


def filled(rows: np.ndarray) -> Iterator[torch.Tensor]:
    """Batches of `_BATCH` of the `rows`, zeros behind the last; at least one batch."""
    for start in range(0, max(1, len(rows)), _BATCH):
        batch = np.zeros((_BATCH, *rows.shape[1:]), dtype=rows.dtype)
        taken = rows[start : start + _BATCH]
        batch[: len(taken)] = taken
        yield torch.from_numpy(batch)
