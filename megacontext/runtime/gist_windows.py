"""Windows of a segment: blocks that are read as gists, tokens behind them, and what is scored at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache
from megacontext.models.behind import read_behind
from megacontext.models.block_caches import SegmentCaches
from megacontext.models.entries import CacheEntries
from megacontext.models.huggingface.base import HuggingFaceBase


@dataclass(frozen=True, kw_only=True)
class WindowShape:
    """Sizes that all windows of a batch share."""

    block_size: int
    distant_blocks: int
    raw_tokens: int
    scored_tokens: int

    @property
    def blocks(self) -> int:
        """Blocks of a segment that a window takes."""
        return self.distant_blocks + -(-(self.raw_tokens + self.scored_tokens) // self.block_size)

    def first_token(self, starts: Tensor) -> Tensor:
        """Where the tokens behind the gists begin, (B,), in windows that begin at blocks `starts` (B,)."""
        return (starts + self.distant_blocks) * self.block_size

    def rows(self, ids: Tensor, starts: Tensor, before: int = 0) -> Tensor:
        """Ids (B, before + raw + scored) of the tokens of each window in a segment (T,), and of some before them."""
        first = self.first_token(starts) - before
        count = before + self.raw_tokens + self.scored_tokens
        return ids[first[:, None] + torch.arange(count, device=ids.device)]

    def gist_blocks(self, starts: Tensor) -> Tensor:
        """Blocks (B, G) that are read as gists."""
        return starts[:, None] + torch.arange(self.distant_blocks, device=starts.device)

    def middles(self, starts: Tensor) -> Tensor:
        """Where their gists stand, (B, G)."""
        return self.gist_blocks(starts) * self.block_size + (self.block_size - 1) / 2


def pooled_gists(
    net: PooledCache | ConstantPrefix, base: HuggingFaceBase, caches: SegmentCaches, blocks: Tensor
) -> CacheEntries:
    """Gists (L, B, G, Hkv, D) of blocks (B, G) of a segment; a constant prefix gives the same ones to every row."""
    rows, count = blocks.shape
    if isinstance(net, ConstantPrefix):
        return CacheEntries(*(one[:, None].expand(-1, rows, -1, -1, -1) for one in net(count)))
    flat = blocks.flatten()
    made = net(caches.blocks.keys[:, flat], caches.blocks.values[:, flat], base.turn)
    return CacheEntries(*(one.unflatten(1, (rows, count)) for one in made))


def scored_hidden(
    base: HuggingFaceBase,
    caches: SegmentCaches,
    shape: WindowShape,
    starts: Tensor,
    rows: Tensor,
    gists: CacheEntries | Tensor | None = None,
) -> Tensor:
    """Hidden states (B, scored, E) that predict the scored tokens, the last of `rows` (B, W) of each window.

    Before the rows stand the distant blocks' gists, as keys and values or as input embeddings (B, G, E); with None,
    whatever tokens the rows begin with.
    """
    before = rows.shape[1] - shape.raw_tokens - shape.scored_tokens
    embeddings = base.embed(rows)
    first = shape.first_token(starts) - before
    positions = (first[:, None] + torch.arange(rows.shape[1], device=rows.device)).double()
    sink_at = (first if gists is None else starts * shape.block_size) - 1
    held = None
    if isinstance(gists, CacheEntries):
        held = gists, shape.middles(starts)
    elif gists is not None:
        embeddings = torch.cat((gists.to(embeddings.dtype), embeddings), dim=1)
        positions = torch.cat((shape.middles(starts).double(), positions), dim=1)
    hidden = read_behind(base, caches.sink, sink_at, held, embeddings, positions)
    return hidden[:, -shape.scored_tokens - 1 : -1]
