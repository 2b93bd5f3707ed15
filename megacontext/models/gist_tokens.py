"""Gist tokens: a token closes each block, and its keys and values in every layer are the block's gist.

The base model makes its own gists (Mu et al., 2304.08467; Activation Beacon, 2401.03462; gists of gists: Simplified
Sparse Attention, 2604.20920). What it reads is masked: the tokens of a block see the block, the gist token of level 1
sees the block and itself, a gist token of level l > 1 sees the K gists of level l - 1 that it closes and itself, and
everything later sees gists and unfolded tokens alone. There is one learned input embedding a level; at level 1 the mean
of the block's own may be added. Without that a gist's first layer says nothing but its level, for nothing has been
attended to there, and each level above has one layer less that says anything.

So a gist is computed from its block alone, or from a fixed number of tokens before it too (`left`), never from the
context that it is read in: it can be made again exactly, at any time. The mask falls apart into two passes that read no
position twice: all blocks side by side, then the contexts, in which the places of gists have given keys and values
(`read_with_gists`). Positions are counted from the gist token, which stands right behind what it closes.

Deliberately knows nothing of which blocks are folded, nor of trees. Axes: N nodes, K children, L layers, B contexts, W
entries, G gists in all contexts together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megacontext.errors import ConfigError, ShapeError
from megacontext.models.base import NO_TOKEN, BaseModel
from megacontext.models.entries import CacheEntries, HoldsEntries, put_entries, take_entries
from megacontext.models.gpt import GPT
from megacontext.models.windows import Sight, sight

_KNOWN_LEVELS = 2
"""Embeddings: 1 = closes tokens, 2 = closes gists, of any level."""


@dataclass(frozen=True, kw_only=True)
class GistTokensConfig:
    """What a gist is computed from."""

    left_tokens: int = 0
    """Tokens before its block that a gist of level 1 is computed from too; 0 = the block alone."""

    mean_input: bool = True
    """Add the mean of a block's input embeddings to that of the gist token which closes it: the first layer then has
    what an embedding gist begins as."""

    def __post_init__(self) -> None:
        if self.left_tokens < 0:
            raise ConfigError(
                f"gist_tokens.left_tokens must not be negative, got {self.left_tokens}; use 0 for the block alone"
            )


class GistTokens(nn.Module):
    """The embeddings of the tokens that close blocks, and how the base makes gists with them."""

    def __init__(self, config: GistTokensConfig, *, width: int, block_size: int):
        super().__init__()
        self.config, self.block_size = config, block_size
        self.level = nn.Parameter(torch.randn(_KNOWN_LEVELS, width) * 0.1)

    def of_blocks(self, base: BaseModel, tokens: Tensor) -> CacheEntries:
        """Gists (L, N, 1, Hkv, D) of blocks: `tokens` (N, left_tokens + K), NO_TOKEN before the history's beginning.

        Raises ShapeError for rows of another length.
        """
        left = self.config.left_tokens
        if tokens.ndim != 2 or tokens.shape[1] != left + self.block_size:
            raise ShapeError(
                f"a gist is of {self.block_size} tokens and {left} before them, got rows {tuple(tokens.shape)}; "
                "cut whole blocks"
            )
        count, length = tokens.shape
        ids = torch.cat((tokens, tokens.new_full((count, 1), NO_TOKEN)), dim=1)
        read = base.embed(tokens.clamp_min(0))
        closing = self.level[0].expand(count, 1, -1)
        if self.config.mean_input:
            closing = closing + read[:, left:].mean(dim=1, keepdim=True)
        embeddings = torch.cat((read, closing), dim=1)
        padding = None
        if left and bool((tokens < 0).any()):
            padding = torch.cat((tokens < 0, tokens.new_zeros(count, 1, dtype=torch.bool)), dim=1)
        positions = torch.arange(-length, 1, device=tokens.device, dtype=torch.float64)[None]
        cache = base.reserve(count, length + 1)
        base(embeddings, positions, ids=ids, padding=padding, cache=cache)
        return take_entries(_holder(base), cache, length, length + 1, positions[:, -1:])

    def of_gists(self, base: BaseModel, children: CacheEntries, lod: int) -> CacheEntries:
        """Gists (L, N, 1, Hkv, D) of level `lod` >= 2 from the gists (L, N, K, Hkv, D) that they close.

        Raises ShapeError for another number of children.
        """
        _, count, family, _, _ = children.keys.shape
        if family != self.block_size or lod < 2:
            raise ShapeError(
                f"a gist of lod >= 2 closes {self.block_size} gists, got {family} for lod {lod}; cut whole families"
            )
        positions = torch.arange(-family, 1, device=children.keys.device, dtype=torch.float64)[None]
        cache = base.reserve(count, family + 1)
        put_entries(_holder(base), cache, children, positions[:, :-1])
        embedding = self.level[min(lod, _KNOWN_LEVELS) - 1].expand(count, 1, -1)
        base(embedding, positions[:, -1:], cache=cache)
        return take_entries(_holder(base), cache, family, family + 1, positions[:, -1:])


def _holder(base: BaseModel) -> HoldsEntries:
    if not isinstance(base, HoldsEntries):
        raise ShapeError(
            f"gist tokens need a model that holds entries, got {type(base).__name__}; use our GPT or a plain rotary "
            "decoder"
        )
    return base


def families(gists: CacheEntries, size: int) -> CacheEntries:
    """Gists (L, N * K, 1, Hkv, D) of neighbouring nodes as the children (L, N, K, Hkv, D) of N parents."""
    return CacheEntries(
        gists.keys.squeeze(2).unflatten(1, (-1, size)), gists.values.squeeze(2).unflatten(1, (-1, size))
    )


def joined(parts: list[CacheEntries]) -> CacheEntries:
    """Gists (L, N, 1, Hkv, D) of several batches in one."""
    return CacheEntries(
        torch.cat([one.keys for one in parts], dim=1), torch.cat([one.values for one in parts], dim=1)
    )


def read_with_gists(
    base: GPT, ids: Tensor, positions: Tensor, gists: CacheEntries, slots: tuple[Tensor, Tensor]
) -> Tensor:
    """Hidden states (B, W, E) of contexts whose gists are keys and values; gradients reach the gists.

    `ids` (B, W) hold NO_TOKEN at gists, `positions` (B, W) or (1, W) are in tokens; `gists` (L, G, 1, Hkv, D) stand at
    rows and columns `slots`, (G,) each. What the result has at a gist's own place means nothing. Padding may stand on
    the right: nothing sees it. Raises ShapeError where gists and places are not as many.
    """
    rows, columns = slots
    if rows.shape != columns.shape or gists.keys.shape[1:3] != (len(rows), 1):
        raise ShapeError(
            f"every place of a gist needs one, got {tuple(gists.keys.shape)} for {len(rows)} places; give them in order"
        )
    embeddings = base.embed(ids.clamp_min(0)) * (ids >= 0)[..., None]
    given = _GivenEntries(base, gists, rows, columns, positions.expand(ids.shape))
    return base(embeddings, positions, ids=ids, cache=given)


class _GivenEntries:
    """What the GPT takes for an empty cache in one pass: at some places attention meets given keys and values."""

    def __init__(self, base: GPT, gists: CacheEntries, rows: Tensor, columns: Tensor, positions: Tensor):
        at = positions[rows, columns]
        keys = gists.keys[:, :, 0]  # (L, G, Hkv, D)
        self._keys = base.turn(keys, at[None, :, None].expand(keys.shape[:-1]))
        self._values = gists.values[:, :, 0]
        self._places = rows, columns
        self.batch, self.room = positions.shape
        self.length = 0

    def has_room(self, batch: int, entries: int) -> bool:
        return (batch, entries) == (self.batch, self.room)

    def sight(self, window: int | None, entries: int, padding: Tensor | None) -> Sight:
        return sight(window, 0, entries, None, self._keys.device)

    def last(self) -> None:
        """Nothing stands before the contexts."""

    def remember(self, givers: Tensor, is_token: Tensor | None) -> None:
        """Nothing is read behind them."""

    def extend(self, layer: int, keys: Tensor, values: Tensor, first: int) -> tuple[Tensor, Tensor]:
        return keys.index_put(self._places, self._keys[layer].to(keys.dtype)), values.index_put(
            self._places, self._values[layer].to(values.dtype)
        )

    def count(self, entries: int) -> None:
        self.length += entries
