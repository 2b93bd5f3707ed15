"""Reading gists of a tree with a question behind them, to see which of them the question attends to.

The gists are of any kind that a memory stores, and of any levels; they stand in the order of time, side by side, with
the question right behind them, as in a context that holds nothing else. Positions follow the model's policy, but where
it counts places, no gist stands farther from the question than `REACH`: a history has more gists than any context that
the model was trained on, and attention over distances that it never met finds nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from megacontext.models.attention_mass import AttentionWatch
from megacontext.models.base import NO_TOKEN
from megacontext.models.gpt import GPT
from megacontext.models.positions import PositionPolicy, entry_positions
from megacontext.runtime.context_cache import ContextCache
from megacontext.runtime.layout import Rows
from megacontext.runtime.reading import Reading
from megacontext.tree.memory import Memory

QUERIES = 1
"""Last tokens of a question whose attention counts: the one that the answer follows. Of 48 facts in two histories of 4k
tokens (training's names) it had the needed block among the first six for .90, as the last 4 had; the last 8 for .85.
The maximum over heads in place of the mean, or the last layer alone, differed by less than so few can tell."""


REACH = 64.0
"""Positions that all gists share, evenly, once there are more. Of 24 facts among 522 blocks (held-out names) attention
had the needed block among the first six for .92, with one position a gist for less than .83."""


class AttentionToGists:
    """A `GistReader` (`megacontext.scoring`) of one memory."""

    def __init__(self, base: GPT, memory: Memory, policy: PositionPolicy, *, cached_gists: bool):
        self._base, self._memory, self._policy, self._cached = base, memory, policy, cached_gists

    @torch.inference_mode()
    def __call__(self, lod: np.ndarray, index: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Attention mass, float32 (n,), of nodes from the last tokens of the question `ids` (P,), P >= 1."""
        return self.by_head(lod, index, ids).mean(axis=(0, 1))

    @torch.inference_mode()
    def by_head(self, lod: np.ndarray, index: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The same by layer and head, float32 (L, H, n)."""
        reading = self._reading(lod, index, ids)
        cache = self._base.reserve(1, reading.cost)
        with AttentionWatch(self._base, queries=min(QUERIES, len(ids))) as watch:
            ContextCache(self._base, reading.cost, cache).read(reading)
            return watch.by_head(cache)[:, 0, :, : len(lod)].cpu().numpy()

    def _reading(self, lod: np.ndarray, index: np.ndarray, ids: np.ndarray) -> Reading:
        memory, size, count = self._memory, self._memory.block_size, len(lod)
        width = size**lod
        asked = memory.num_tokens + np.arange(len(ids))
        positions = entry_positions(
            np.concatenate((index * width, asked)),
            np.concatenate(((index + 1) * width, asked + 1)),
            self._policy,
        )
        if self._policy == "context" and count > REACH:
            positions[:count] *= REACH / count
            positions[count:] += REACH - count
        rows = Rows(np.concatenate((lod, np.zeros_like(asked))), np.concatenate((index, asked)), positions)
        every = np.concatenate((np.full(count, NO_TOKEN, dtype=np.int64), ids.astype(np.int64)))
        slots, gists = np.arange(count), memory.gists_at(lod, index)
        nothing = np.zeros(0, dtype=np.int64)
        if self._cached:
            return Reading(every, nothing, np.zeros((0, 0), dtype=np.float32), positions, rows, slots, gists)
        return Reading(every, slots, gists, positions, rows)
