"""Windows of a language measurement in which embedding gists stand for the distant tokens.

A window is one stretch of a document: distant tokens (LOD2 spans of K * K first, then LOD1 blocks of K), raw tokens,
and the tokens that are scored. It can be read whole, with vectors in the place of the distant part, or from a few
tokens before the raw ones on; whatever is read, the same tokens are predicted. Training and evaluation share it, so
that neither can differ from the other.

Deliberately knows nothing of losses, arms or documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.gistnet.gist import GistNet
from megacontext.models.base import NO_TOKEN, BaseModel
from megacontext.models.positions import PositionPolicy, entry_positions


@dataclass(frozen=True, kw_only=True)
class EmbeddingWindow:
    """Sizes that all windows of a batch share."""

    block_size: int
    blocks: int
    """Blocks of K distant tokens, each a gist of LOD1."""
    coarse: int = 0
    """Spans of K * K tokens before those, each a gist of LOD2."""
    raw_tokens: int = 64
    scored_tokens: int = 128

    def __post_init__(self) -> None:
        if min(self.blocks, self.coarse) < 0 or self.blocks + self.coarse < 1:
            raise ConfigError(
                f"a window needs a distant block or a coarse span at least, got {self.blocks} and {self.coarse}; "
                f"raise one"
            )
        if min(self.raw_tokens, self.scored_tokens) < 1:
            raise ConfigError(
                "a window needs at least 1 raw and 1 scored token, got "
                f"{self.raw_tokens} and {self.scored_tokens}; raise them"
            )

    @property
    def gists(self) -> int:
        """Spans that a gist stands for."""
        return self.coarse + self.blocks

    @property
    def distant_tokens(self) -> int:
        return (self.coarse * self.block_size + self.blocks) * self.block_size

    @property
    def tokens(self) -> int:
        """Of a whole window."""
        return self.distant_tokens + self.raw_tokens + self.scored_tokens

    def span_bounds(self, slots: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """First token and one past the last, (gists * slots,) each, of what each vector stands for.

        The slots of a gist share its span evenly.
        """
        size = self.block_size
        widths = np.repeat([size * size, size], [self.coarse, self.blocks])
        each = np.repeat(widths / slots, slots)
        stop = np.cumsum(each)
        return stop - each, stop


def make_gists(gistnet: GistNet, base: BaseModel, window: EmbeddingWindow, ids: Tensor) -> Tensor:
    """Vectors (B, gists * slots, E) for the distant tokens of windows `ids` (B, tokens), coarse ones first."""
    size, slots = window.block_size, gistnet.config.slots
    made = []
    far, near = (
        ids[:, : window.distant_tokens]
        .view(len(ids), -1, size)
        .split([window.coarse * size, window.blocks], dim=1)
    )
    if window.coarse:
        children = gistnet.gists(base.embed(far.flatten(0, 1)), 1)  # (B * C * K, slots, E)
        parents = gistnet.gists(children.unflatten(0, (-1, size)), 2)
        made.append(parents.unflatten(0, (len(ids), window.coarse)).flatten(1, 2))
    if window.blocks:
        gists = gistnet.gists(base.embed(near.flatten(0, 1)), 1)
        made.append(gists.unflatten(0, (len(ids), window.blocks)).flatten(1, 2))
    vectors = torch.cat(made, dim=1)
    assert vectors.shape[1] == window.gists * slots
    return vectors


def hidden_behind(
    base: BaseModel,
    window: EmbeddingWindow,
    policy: PositionPolicy,
    gists: Tensor,
    ids: Tensor,
    left: Tensor | None = None,
) -> Tensor:
    """Hidden states (B, L + P + raw + scored, E) of windows `ids` (B, tokens), `gists` (B, P, E) for the distant part.

    `left` (B, L) are plain tokens before the window.
    """
    left = ids[:, :0] if left is None else left
    near, before = ids[:, window.distant_tokens :], left.shape[1]
    tokens = torch.cat((left, near.new_full(gists.shape[:2], NO_TOKEN), near), dim=1)
    starts, stops = window.span_bounds(gists.shape[1] // window.gists)
    first = np.arange(-before, 0)
    starts, stops = np.concatenate((first, starts)), np.concatenate((first + 1, stops))
    embeddings = torch.cat((base.embed(left), gists, base.embed(near)), dim=1)
    positions = entry_row(starts, stops, window.distant_tokens, near.shape[1], policy, ids.device)
    return base(embeddings, positions, ids=tokens)


def entry_row(
    starts: np.ndarray,
    stops: np.ndarray,
    first: int,
    count: int,
    policy: PositionPolicy,
    device: torch.device,
) -> Tensor:
    """Positions (1, W) of entries that cover [starts, stops), and of `count` tokens from `first` on behind them."""
    places = np.arange(first, first + count)
    positions = entry_positions(np.concatenate((starts, places)), np.concatenate((stops, places + 1)), policy)
    return torch.from_numpy(positions).to(device)[None]


def hidden_plain(
    base: BaseModel, window: EmbeddingWindow, policy: PositionPolicy, ids: Tensor, before: int
) -> Tensor:
    """Hidden states (B, before + raw + scored, E) of the last tokens of windows `ids`, `before` of them distant."""
    first, none = window.distant_tokens - before, np.arange(0)
    seen = ids[:, first:]
    return base(base.embed(seen), entry_row(none, none, first, seen.shape[1], policy, ids.device), ids=seen)


def predicting(hidden: Tensor, window: EmbeddingWindow) -> Tensor:
    """Those states (B, scored, E) whose next tokens are the scored ones: the last state has no token to predict."""
    return hidden[:, -window.scored_tokens - 1 : -1]


def scored(ids: Tensor, window: EmbeddingWindow) -> Tensor:
    """The scored tokens (B, scored) of windows (B, tokens)."""
    return ids[:, -window.scored_tokens :]
