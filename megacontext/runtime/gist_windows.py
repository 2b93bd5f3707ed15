"""Windows of a text: nodes of one or two levels that are read as gists, tokens behind them, and what is scored.

In time order a window is P gists of gists (LOD2, each of K blocks), G gists of blocks (LOD1), raw tokens, scored ones.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Blocks that are read as gists, right before the raw tokens."""
    raw_tokens: int
    scored_tokens: int
    distant_parents: int = 0
    """Nodes of `block_size` blocks before them that are read as gists of gists."""
    reach_tokens: int | None = None
    """How far before the raw tokens anything may stand, e.g. what the decoder was trained to; where the distant part is
    longer, the distances of the gists of gists are squeezed evenly into it. None: all stand where they are."""

    @property
    def gists(self) -> int:
        """Positions that the distant part takes."""
        return self.distant_parents + self.distant_blocks

    @property
    def far_blocks(self) -> int:
        """Blocks of the gists of gists."""
        return self.distant_parents * self.block_size

    @property
    def distant_tokens(self) -> int:
        """Tokens that all gists stand for."""
        return (self.far_blocks + self.distant_blocks) * self.block_size

    @property
    def blocks(self) -> int:
        """Blocks of a text that a window takes."""
        tail = -(-(self.raw_tokens + self.scored_tokens) // self.block_size)
        return self.far_blocks + self.distant_blocks + tail

    def begins(self, segments: int, segment_blocks: int) -> range:
        """Blocks that windows may begin at in so many segments, such that what follows the gists is in the last.

        Nodes begin where a tree has them: at multiples of their size, counted from the first segment.
        """
        blocks = segments * segment_blocks
        first = max(0, blocks - segment_blocks - self.far_blocks - self.distant_blocks)
        grid = self.block_size if self.distant_parents else 1
        return range(-(-first // grid) * grid, blocks - self.blocks + 1, grid)

    def first_token(self, starts: Tensor) -> Tensor:
        """Where the tokens behind the gists begin, (B,), in windows that begin at blocks `starts` (B,)."""
        return starts * self.block_size + self.distant_tokens

    def rows(self, ids: Tensor, starts: Tensor, before: int = 0) -> Tensor:
        """Ids (B, before + raw + scored) of the tokens of each window in a text (T,), and of some before them."""
        first = self.first_token(starts) - before
        count = before + self.raw_tokens + self.scored_tokens
        return ids[first[:, None] + torch.arange(count, device=ids.device)]

    def gist_blocks(self, starts: Tensor) -> Tensor:
        """Blocks (B, G) that are read as gists of their own."""
        return starts[:, None] + self.far_blocks + torch.arange(self.distant_blocks, device=starts.device)

    def parent_blocks(self, starts: Tensor) -> Tensor:
        """Blocks (B, P, K) that are read as gists of gists."""
        places = torch.arange(self.far_blocks, device=starts.device)
        return (starts[:, None] + places).unflatten(1, (self.distant_parents, self.block_size))

    def places(self, starts: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Where the last `count` gists stand, (B, count), and the sink before them, (B,).

        A gist stands at the middle of its tokens, the sink where the token before them stood.
        """
        size = self.block_size
        far = torch.arange(self.distant_parents, device=starts.device) * size * size
        near = torch.arange(self.distant_blocks, device=starts.device) * size + self.far_blocks * size
        middles = torch.cat((far + (size * size - 1) / 2, near + (size - 1) / 2))[self.gists - count :]
        first = torch.cat((far, near, near.new_tensor([self.distant_tokens])))[self.gists - count] - 1.0
        placed = self.distant_tokens - self._squeezed(
            self.distant_tokens - torch.cat((middles, first[None])).double()
        )
        at = starts[:, None].double() * size + placed
        return at[:, :-1], at[:, -1]

    def _squeezed(self, distances: Tensor) -> Tensor:
        """Distances from the first raw token, none beyond the reach."""
        farthest, near = self.distant_tokens + 1, self.distant_blocks * self.block_size
        if self.reach_tokens is None or farthest <= self.reach_tokens:
            return distances
        share = (self.reach_tokens - near) / (farthest - near)
        return torch.where(distances > near, near + (distances - near) * share, distances)


def pooled_gists(
    net: PooledCache | ConstantPrefix, base: HuggingFaceBase, caches: SegmentCaches, blocks: Tensor
) -> CacheEntries:
    """Gists (L, B, G, Hkv, D) of blocks (B, G) of a segment; a constant prefix gives the same ones to every row."""
    rows, count = blocks.shape
    if isinstance(net, ConstantPrefix):
        return constant_gists(net, rows, count)
    flat = blocks.flatten()
    made = net(caches.blocks.keys[:, flat], caches.blocks.values[:, flat], base.turn)
    return CacheEntries(*(one.unflatten(1, (rows, count)) for one in made))


def constant_gists(prefix: ConstantPrefix, rows: int, count: int) -> CacheEntries:
    """The last `count` entries of a constant prefix, the same ones in every row: (L, B, G, Hkv, D)."""
    return CacheEntries(*(one[:, None].expand(-1, rows, -1, -1, -1) for one in prefix(count)))


def picked_gists(gists: CacheEntries, blocks: Tensor) -> CacheEntries:
    """Those of blocks (B, G) out of gists (L, N, Hkv, D) of all blocks of a text: (L, B, G, Hkv, D)."""
    return CacheEntries(gists.keys[:, blocks], gists.values[:, blocks])


def parent_gists(
    net: PooledCache, base: HuggingFaceBase, gists: CacheEntries, blocks: Tensor
) -> CacheEntries:
    """Gists of gists (L, B, P, Hkv, D): each of the K blocks (B, P, K) whose gists are among (L, N, Hkv, D)."""
    rows, parents, size = blocks.shape
    flat = blocks.reshape(rows * parents, size)
    made = net(gists.keys[:, flat], gists.values[:, flat], base.turn, lod=2)
    return CacheEntries(*(one.unflatten(1, (rows, parents)) for one in made))


def in_time_order(parts: Sequence[CacheEntries]) -> CacheEntries:
    """Entries (L, B, n, Hkv, D), one part behind the other."""
    kind = parts[-1].keys.dtype
    return CacheEntries(
        torch.cat([one.keys.to(kind) for one in parts], dim=2),
        torch.cat([one.values.to(kind) for one in parts], dim=2),
    )


def scored_hidden(
    base: HuggingFaceBase,
    sink: CacheEntries,
    shape: WindowShape,
    starts: Tensor,
    rows: Tensor,
    gists: CacheEntries | Tensor | None = None,
) -> Tensor:
    """Hidden states (B, scored, E) that predict the scored tokens, the last of `rows` (B, W) of each window.

    Before the rows stand the sink (L, 1, 1, Hkv, D) and the distant gists, all or the last of them, as keys and values
    or as input embeddings (B, G, E); with None, whatever tokens the rows begin with.
    """
    before = rows.shape[1] - shape.raw_tokens - shape.scored_tokens
    embeddings = base.embed(rows)
    first = shape.first_token(starts) - before
    positions = (first[:, None] + torch.arange(rows.shape[1], device=rows.device)).double()
    sink_at, held = first - 1, None
    if gists is not None:
        count = gists.keys.shape[2] if isinstance(gists, CacheEntries) else gists.shape[1]
        middles, sink_at = shape.places(starts, count)
        if isinstance(gists, CacheEntries):
            held = gists, middles
        else:
            embeddings = torch.cat((gists.to(embeddings.dtype), embeddings), dim=1)
            positions = torch.cat((middles, positions), dim=1)
    hidden = read_behind(base, sink, sink_at, held, embeddings, positions)
    return hidden[:, -shape.scored_tokens - 1 : -1]
