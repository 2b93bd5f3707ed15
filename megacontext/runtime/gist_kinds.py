"""The kinds of gists that a bundle may have, each made the same way in trees and in training.

A tree stores a vector a node, whatever it is. Embedding gists are inputs of the base model; gists of gist tokens are
entries of its cache, packed. Which kind a bundle has its configuration says (`gists`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from megacontext.models.entries import CacheEntries
from megacontext.models.gist_tokens import GistTokens
from megacontext.registry import Registry
from megacontext.runtime.bundle import Bundle


class GistMaker(Protocol):
    """Gists of blocks and of gists, as vectors of E numbers."""

    cached: bool
    """Whether a gist is an entry of keys and values, or an input embedding."""
    left_tokens: int
    """Tokens before its block that a gist is computed from."""
    made_of: tuple[str, ...]
    """The parts of a bundle whose weights a gist depends on."""

    def of_blocks(self, tokens: Tensor) -> Tensor:
        """Gists (N, E) of blocks `tokens` (N, left_tokens + K); NO_TOKEN stands before a history."""
        ...

    def of_gists(self, children: Tensor, lod: int) -> Tensor:
        """Gists (N, E) of level `lod` >= 2 from their children (N, K, E)."""
        ...

    def flops(self, block_size: int) -> tuple[float, float]:
        """Arithmetic of one gist of a block, and of one of gists (multiply-adds count two)."""
        ...


GIST_KINDS: Registry[Callable[[Bundle], GistMaker]] = Registry("kind of gist")


def gist_maker(bundle: Bundle) -> GistMaker:
    """The maker of a bundle's kind."""
    return GIST_KINDS.get(bundle.config.gists)(bundle)


@GIST_KINDS.register("embedding")
class EmbeddingGists:
    """GistNet over the base model's input embeddings."""

    cached = False
    left_tokens = 0
    made_of = ("gistnet",)

    def __init__(self, bundle: Bundle):
        self._base, self._net = bundle.base, bundle.gistnet

    def of_blocks(self, tokens: Tensor) -> Tensor:
        return self._net(self._base.embed(tokens), 1)

    def of_gists(self, children: Tensor, lod: int) -> Tensor:
        return self._net(children, lod)

    def flops(self, block_size: int) -> tuple[float, float]:
        each = 2.0 * block_size * sum(one.numel() for one in self._net.parameters())
        return each, each


@GIST_KINDS.register("tokens")
class TokenGists:
    """The base model's own keys and values of a token that closes the block."""

    cached = True
    made_of = ("base", "gist_tokens")

    def __init__(self, bundle: Bundle):
        assert isinstance(bundle.gist_tokens, GistTokens)
        self._base, self._tokens = bundle.base, bundle.gist_tokens
        self.left_tokens = bundle.config.gist_tokens.left_tokens

    def of_blocks(self, tokens: Tensor) -> Tensor:
        return self._tokens.of_blocks(self._base, tokens).packed()[:, 0]  # (L, N, 1, Hkv, D) -> (N, E)

    def of_gists(self, children: Tensor, lod: int) -> Tensor:
        return self._tokens.of_gists(self._base, CacheEntries.unpacked(children, self._base), lod).packed()[
            :, 0
        ]

    def flops(self, block_size: int) -> tuple[float, float]:
        layers = sum(one.numel() for one in self._base.transformer["h"].parameters())
        return 2.0 * layers * (self.left_tokens + block_size + 1), 2.0 * layers
