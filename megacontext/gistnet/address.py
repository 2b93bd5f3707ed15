"""AddressNet: one unit vector for a block and one for a question, close when the question is about the block.

A gist trained by the language-model loss alone cannot be found again; an address is trained for nothing else
(InfoNCE, van den Oord et al. 2018; on plain text the query is a span of the block itself, the inverse cloze task of
Lee et al. 2019). It is never read by the model and costs no budget. The block is read together with a few tokens
before it, so that a sentence cut by a block boundary still names its subject in the second block.

Deliberately knows nothing of trees: token ids in, vectors out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.attention.encoder import EncoderLayer
from megacontext.errors import ConfigError, ShapeError


@dataclass(frozen=True, kw_only=True)
class AddressNetConfig:
    """Size of the net and of an address."""

    address_width: int = 64
    width: int = 128
    layers: int = 1
    heads: int = 4
    left_tokens: int = 16
    """Tokens before the block that its address may look at."""
    longest_question: int = 64
    """Only the last tokens of a longer question are read."""

    def __post_init__(self) -> None:
        if min(self.address_width, self.width, self.layers, self.heads, self.longest_question) < 1:
            raise ConfigError("every size of address.* must be at least 1; raise the one that is not")
        if self.width % self.heads:
            raise ConfigError(
                f"address.width must be a multiple of address.heads, got {self.width} and {self.heads}; change one"
            )
        if self.left_tokens < 0:
            raise ConfigError(
                f"address.left_tokens must not be negative, got {self.left_tokens}; use 0 for none"
            )


class AddressNet(nn.Module):
    """ids (N, T) -> unit vectors (N, A)."""

    BLOCK, QUESTION = 0, 1

    def __init__(
        self, config: AddressNetConfig, *, vocab_size: int, block_size: int, table: Tensor | None = None
    ):
        """`table` (V, E): embeddings of somebody else to look at, which stay as they are and are not saved with it."""
        super().__init__()
        self.config = config
        longest = max(config.left_tokens + block_size, config.longest_question)
        if table is None:
            self.token = nn.Embedding(vocab_size, config.width)
        else:
            self.token = _Frozen(table, config.width)
        self.place = nn.Parameter(torch.randn(longest, config.width) * 0.02)
        self.kind = nn.Parameter(torch.randn(2, config.width) * 0.02)
        self.layers = nn.ModuleList(EncoderLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.weight = nn.Linear(config.width, 1)
        self.head = nn.Linear(config.width, config.address_width)

    def forward(self, ids: Tensor, kind: int) -> Tensor:
        """Addresses (N, A), unit length, of token rows (N, T); -1 marks padding, wherever it stands.

        `kind` is AddressNet.BLOCK (left tokens and block) or AddressNet.QUESTION. A row needs at least one token.
        """
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= len(self.place):
            raise ShapeError(
                f"an address needs ids (N, T) with 1 <= T <= {len(self.place)}, got {tuple(ids.shape)}"
            )
        known = ids >= 0
        if not known.any(dim=1).all():
            raise ShapeError("an address needs at least one token in every row, got a row of padding only")
        x = self.token(ids.clamp_min(0)) + self.place[: ids.shape[1]] + self.kind[kind]
        mask = known[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        weights = self.weight(x)[..., 0].masked_fill(~known, float("-inf")).softmax(dim=1)
        return F.normalize(self.head((weights[..., None] * x).sum(dim=1)), dim=-1)


class _Frozen(nn.Module):
    """Rows of a table that belongs to somebody else, normed and projected: ids (...) -> (..., width)."""

    def __init__(self, table: Tensor, width: int):
        super().__init__()
        self.register_buffer("table", F.normalize(table, dim=-1), persistent=False)
        self.project = nn.Linear(table.shape[1], width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.project(F.embedding(ids, self.table) * self.table.shape[1] ** 0.5)
