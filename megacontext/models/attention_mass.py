"""How much attention the last entries of a reading give to each entry that they see.

The forward pass is left alone: while a watch is on, hooks note what each attention layer is given, and afterwards the
queries of the last entries are projected once more and held against the keys in the cache, as the layer itself does it
(rotary positions, norm, window, padding). So the watch costs a few rows of one projection a layer, and a pass that is
made anyway, a prompt's, gives the mass for nothing more.

Deliberately knows nothing of what an entry stands for. Axes: B batch, Q watched queries, S entries in the cache,
H query heads, Hkv key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from megacontext.attention.rotary import rotate
from megacontext.errors import ConfigError
from megacontext.models.cache import KVCache
from megacontext.models.gpt import GPT
from megacontext.models.hooks import Hooked
from megacontext.models.layers import Attention
from megacontext.models.pointwise import rms_norm
from megacontext.models.windows import Sight


class AttentionWatch(Hooked):
    """Watches the last `queries` entries of forward passes of `model` in its last `layers` layers (None: in all).

    A context manager around passes with one cache; `mass` tells of the newest pass. Raises ConfigError for counts below
    1 or more layers than there are.

        with AttentionWatch(model, queries=8) as watch:
            model(embeddings, positions, ids=ids, cache=cache)
        mass = watch.mass(cache)
    """

    def __init__(self, model: GPT, *, queries: int = 8, layers: int | None = None):
        every = [block.attn for block in model.transformer["h"]]
        watched = len(every) if layers is None else layers
        if queries < 1 or not 1 <= watched <= len(every):
            raise ConfigError(
                f"a watch needs queries >= 1 and 1 to {len(every)} layers, got {queries} and {watched}; change them"
            )
        self._attentions: list[Attention] = every[len(every) - watched :]
        self._queries = queries
        self._seen: dict[int, tuple[Tensor, Tensor | None, int]] = {}
        self._length = 0
        """Entries in the cache once the watched pass is through."""

    def _hooks(self) -> Iterator[RemovableHandle]:
        for attention in self._attentions:
            yield attention.register_forward_pre_hook(self._note)

    @torch.no_grad()
    def _note(self, attention: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(attention, Attention)
        x, rotation, sight, _, cache = given
        last = slice(-self._queries, None)
        q = attention.c_q(x[:, last]).view(len(x), -1, attention.heads, attention.head_dim)
        q = rms_norm(rotate(q, (rotation.cos[:, last], rotation.sin[:, last])))  # (B, Q, H, D)
        self._seen[attention.layer] = q, _mask(sight, last), sight.first
        self._length = x.shape[1] + (0 if cache is None else cache.length)

    @torch.no_grad()
    def mass(self, cache: KVCache) -> Tensor:
        """Mean attention over watched queries, heads and layers, float32 (B, S); each row sums to 1.

        `cache` is the one that the newest watched pass has filled. Raises ConfigError if there was none, or entries
        have been added since.
        """
        total = torch.zeros(cache.batch, cache.length, device=cache.keys[0].device)
        for first, shares in self._shares(cache):
            total[:, first:] += shares.mean(dim=(1, 2))
        return total / len(self._attentions)

    @torch.no_grad()
    def by_head(self, cache: KVCache) -> Tensor:
        """The same without the mean over layers and heads, float32 (L, B, H, S). Raises as `mass` does."""
        heads = self._attentions[0].heads
        found = torch.zeros(
            len(self._attentions), cache.batch, heads, cache.length, device=cache.keys[0].device
        )
        for layer, (first, shares) in zip(found, self._shares(cache), strict=True):
            layer[..., first:] = shares.mean(dim=2)
        return found

    def _shares(self, cache: KVCache) -> Iterator[tuple[int, Tensor]]:
        """Layer by layer the first entry that is seen, and the attention (B, H, Q, S - first) that sums to 1."""
        if not self._seen:
            raise ConfigError(
                "a watch tells of a forward pass, none was made inside it; call the model within the with-block"
            )
        if cache.length != self._length:
            raise ConfigError(
                f"a mass belongs to the pass that was watched, which ended with {self._length} entries, the cache has "
                f"{cache.length}; ask before more is read"
            )
        for attention in self._attentions:
            q, mask, first = self._seen[attention.layer]
            keys = cache.keys[attention.layer][:, first : cache.length]  # (B, S - first, Hkv, D)
            keys = keys.repeat_interleave(attention.heads // attention.kv_heads, dim=2)
            logits = torch.einsum("bqhd,bshd->bhqs", q.float(), keys.float()) * attention.scale
            logits = logits.masked_fill(~_causal(logits, mask), float("-inf"))
            yield first, logits.softmax(dim=-1)


def _mask(sight: Sight, last: slice) -> Tensor | None:
    """What the last queries see, bool (B or 1, 1, Q, keys); None where causality says it all."""
    return None if sight.mask is None else sight.mask[:, :, last]


def _causal(logits: Tensor, mask: Tensor | None) -> Tensor:
    """`mask`, or the causal one of the last queries: query i of Q sees all but the last Q - 1 - i entries."""
    if mask is not None:
        return mask
    queries, keys = logits.shape[-2:]
    return torch.ones(queries, keys, dtype=torch.bool, device=logits.device).tril(keys - queries)
