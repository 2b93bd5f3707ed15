"""Rows of tokens as mixed contexts: some blocks raw, the others folded into one gist each.

A folded row is what a working context looks like to the base model, made from plain training text. All rows of a
step fold the same number of blocks, so that they stay rectangular and every row weighs the same; which blocks is drawn
for each row. The target of an entry is the token after its span: of a raw token the next one, of a gist the first
token after its block. With no block folded this is the vanilla row, entry for entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megacontext.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FoldingConfig:
    """How much of a row is folded."""

    block_size: int = 32
    max_share: float = 0.75
    """Blocks of a row that are folded at most; the number is drawn anew each step, from 1 on."""

    def __post_init__(self) -> None:
        if self.block_size < 2 or not 0 < self.max_share <= 1:
            raise ConfigError(
                "folding needs block_size of at least 2 and max_share in (0, 1], got "
                f"{self.block_size} and {self.max_share}; the usual ones are 32 and 0.75"
            )

    def check(self, row_tokens: int) -> None:
        """Raises ConfigError if a row of so many tokens has no block to fold, or ends inside of one."""
        if row_tokens % self.block_size or row_tokens < 2 * self.block_size:
            raise ConfigError(
                f"rows that are folded must be whole blocks of {self.block_size}, at least two, got "
                f"model.sequence_len = {row_tokens}; change one"
            )

    def draw(self, rng: np.random.Generator, rows: int, row_tokens: int) -> np.ndarray:
        """Which blocks are folded: bool (rows, blocks), the same number in each row, never the last block."""
        blocks = row_tokens // self.block_size
        most = max(1, min(blocks - 1, int(self.max_share * blocks)))
        folded = np.zeros((rows, blocks), dtype=bool)
        order = rng.permuted(np.tile(np.arange(blocks - 1), (rows, 1)), axis=1)
        np.put_along_axis(folded, order[:, : rng.integers(1, most + 1)], True, axis=1)
        return folded


@dataclass(frozen=True)
class FoldedRows:
    """Rows as entries. W is what is left of T: blocks - folded raw blocks of K, and one entry a folded block."""

    ids: Tensor
    """int64 (B, W): token id, or -1 at a gist."""
    targets: Tensor
    """int64 (B, W): the token after the entry's span."""
    gist_slots: Tensor
    """int64 (G,): where gists stand, in the flattened (B * W)."""
    gist_tokens: Tensor
    """int64 (G, K): what they stand for."""


def fold(rows: np.ndarray, folded: np.ndarray | None, block_size: int) -> FoldedRows:
    """Entries of rows int64 (B, T + 1); `folded` bool (B, T / K) with equal sums, or None for plain rows."""
    tokens = torch.from_numpy(rows)
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    if folded is None:
        empty = torch.empty(0, dtype=torch.int64)
        return FoldedRows(ids, targets, empty, empty.view(0, block_size))
    count = len(rows)
    # Of a folded block only its last place is kept: what follows it on the timeline is the gist's target.
    is_folded = np.repeat(folded, block_size, axis=1)
    last = np.arange(is_folded.shape[1]) % block_size == block_size - 1
    kept = torch.from_numpy(~is_folded | last)
    gist_places = torch.from_numpy(is_folded & last)
    entries = torch.where(gist_places, -1, ids)[kept].view(count, -1)
    return FoldedRows(
        entries,
        targets[kept].view(count, -1),
        (entries.flatten() < 0).nonzero().flatten(),
        ids.reshape(count, -1, block_size)[torch.from_numpy(folded)],
    )
