"""The base model: a GPT compatible with nanochat that reads a mixed context of tokens and gists.

The arithmetic is nanochat's (weightless RMSNorm, rotary positions, QK-norm, squared ReLU, untied head, capped
logits); the generations differ by a `Dialect`. Parameter names are nanochat's, so a state dict needs no translation.
What is added is the way in: the model takes embeddings and positions, so an entry may be a token or a gist.

Policy for gists, which have no token id: no value embedding, no smear into or out of a gist, windows count entries.
A context of plain tokens therefore gives exactly the vanilla logits.

Deliberately knows nothing of trees, budgets or where a gist came from. Axes: B batch, W entries, H query heads,
Hkv key/value heads, D head width, E model width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.attention.rotary import Rotation, rotary_damping, rotary_tables, rotate
from megacontext.errors import ShapeError
from megacontext.models.base import NO_TOKEN
from megacontext.models.cache import EntryCache, KVCache
from megacontext.models.config import GPTConfig
from megacontext.models.dialect import DIALECTS, SMEAR_CHANNELS
from megacontext.models.layers import Attention, Block, ValueEmbedding, has_value_embedding
from megacontext.models.pointwise import cap, rms_norm
from megacontext.models.windows import Sight, sight

__all__ = ["GPT", "NO_TOKEN", "GPTConfig", "KVCache"]


class GPT(nn.Module):
    """embed(ids) -> forward(embeddings, positions) -> unembed(hidden). A `BaseModel`.

    `window`: entries that every layer sees before its own, in place of what the pattern says.
    """

    def __init__(self, config: GPTConfig, window: int | None = None):
        super().__init__()
        self.config = config
        self.dialect = dialect = DIALECTS.get(config.dialect)
        self.windows = config.windows if window is None else (window,) * config.n_layer
        self._lengths = set(self.windows)
        layers, kv_width, rows = config.n_layer, config.n_kv_head * config.head_dim, config.vocab_rows
        self._has_values = [
            dialect.value_gate_channels > 0 and has_value_embedding(layer, layers) for layer in range(layers)
        ]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(rows, config.n_embd),
                "h": nn.ModuleList(
                    Block(
                        Attention(
                            dialect,
                            width=config.n_embd,
                            heads=config.n_head,
                            kv_heads=config.n_kv_head,
                            layer=layer,
                            value_embedding=self._has_values[layer],
                        ),
                        config.n_embd,
                    )
                    for layer in range(layers)
                ),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, rows, bias=False)
        if dialect.residual_scalars:
            self.resid_lambdas = nn.Parameter(torch.ones(layers))
            self.x0_lambdas = nn.Parameter(torch.zeros(layers))
        if dialect.smear:
            self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
            self.smear_lambda = nn.Parameter(torch.zeros(1))
        if dialect.backout:
            self.backout_lambda = nn.Parameter(torch.zeros(1))
        if dialect.value_gate_channels:
            self.value_embeds = nn.ModuleDict(
                {
                    str(layer): nn.Embedding(rows, kv_width)
                    for layer in range(layers)
                    if self._has_values[layer]
                }
            )

    @property
    def width(self) -> int:
        """E, numbers in an input embedding."""
        return self.config.n_embd

    @property
    def vocab_size(self) -> int:
        """V, how many logits `unembed` gives."""
        return self.config.vocab_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def reserve(self, batch: int, room: int) -> KVCache:
        """An empty cache with room for `room` entries in each of `batch` rows."""
        return KVCache.reserve(self.config, batch, room, self.lm_head.weight)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (..., E) of token ids (...)."""
        return self.transformer["wte"](ids)

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor,
        *,
        ids: Tensor | None = None,
        padding: Tensor | None = None,
        cache: EntryCache | None = None,
        variance: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, W, E), normed and ready for `unembed`.

        `embeddings` (B, W, E) in time order; `positions` (B, W), or (1, W) where all rows share them, in tokens, on any
        origin (rotary positions are relative); `variance` of the same shape, in tokens squared, of an entry that stands
        for a span (None: every place is certain). `ids` (B, W): the token id of each entry, NO_TOKEN for a gist; None
        says that all are gists. `padding` bool (B, W): True where an entry is only filling and must not be seen. With a
        `cache`, the entries follow those that it holds. Raises ShapeError when the arguments do not belong together.
        """
        self._check(embeddings, positions, ids, padding, cache, variance)
        batch, entries, _ = embeddings.shape
        is_token = _token_mask(ids, batch, entries, embeddings.device)
        x = rms_norm(embeddings)
        if self.dialect.smear:
            x = self._smear(x, ids is not None, is_token, cache)
        head_dim, rope_base = self.config.head_dim, self.dialect.rope_base
        rotation = Rotation(
            *rotary_tables(positions, head_dim, rope_base),
            None if variance is None else rotary_damping(variance, head_dim, rope_base),
        )
        sights = self._sights(entries, padding, cache, embeddings.device)
        known = ids if ids is None or is_token is None else ids.clamp_min(0)
        scalars = None
        if self.dialect.residual_scalars:
            scalars = list(zip(self.resid_lambdas.unbind(), self.x0_lambdas.unbind(), strict=True))

        first, middle = x, None
        for layer, block in enumerate(self.transformer["h"]):
            if scalars is not None:
                own, early = scalars[layer]
                x = torch.addcmul(own * x, early, first)
            value = None
            if known is not None and self._has_values[layer]:
                value = ValueEmbedding(self.value_embeds[str(layer)](known), is_token)
            x = block(x, rotation, sights[self.windows[layer]], value, cache)
            if layer == self.config.n_layer // 2:
                middle = x
        if cache is not None:
            cache.count(entries)
        if self.dialect.backout and middle is not None:
            x = torch.addcmul(x, self.backout_lambda, middle, value=-1)
        return rms_norm(x)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Capped logits, float32 (..., V), of hidden states (..., E)."""
        # Rows of padding are left out before the product, so that its result is whole and can be capped in place.
        weight = self.lm_head.weight[: self.config.vocab_size]
        return cap(F.linear(hidden, weight).float(), self.dialect.softcap)

    # Entries that are keys and values: see `models.entries.HoldsEntries`.

    @property
    def entry_shape(self) -> tuple[int, int, int]:
        """L, Hkv, D: layers, key/value heads, head width."""
        return self.config.n_layer, self.config.n_kv_head, self.config.head_dim

    def turn(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys (..., D) rotated on by positions (...), in tokens."""
        one_by_one = keys.reshape(1, -1, 1, keys.shape[-1])
        tables = rotary_tables(positions.reshape(1, -1), keys.shape[-1], self.dialect.rope_base)
        return rotate(one_by_one, tables).view(keys.shape)

    def cached(self, cache: KVCache, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values (L, B, n, Hkv, D) of entries [start, stop) of a cache."""
        keys, values = (
            torch.stack([layer[:, start:stop] for layer in one]) for one in (cache.keys, cache.values)
        )
        return keys, values

    def append_cached(self, cache: KVCache, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (L, B, n, Hkv, D) behind what a cache holds. They have no part in smear."""
        _, batch, count, _, _ = keys.shape
        for layer, (own_keys, own_values) in enumerate(zip(keys, values, strict=True)):
            cache.extend(layer, own_keys, own_values, first=cache.length)
        cache.mark(count, None)
        if self.dialect.smear:
            nothing = keys.new_zeros(batch, count, self.width)
            cache.remember(nothing, torch.zeros(batch, count, 1, dtype=torch.bool, device=keys.device))
        cache.count(count)

    def origin(self, cache: KVCache, positions: Tensor) -> Tensor:
        """Positions are counted from the beginning of time, in float64."""
        return positions.new_zeros(1, 1)

    def _check(
        self,
        embeddings: Tensor,
        positions: Tensor,
        ids: Tensor | None,
        padding: Tensor | None,
        cache: EntryCache | None,
        variance: Tensor | None,
    ) -> None:
        """Raises ShapeError, before anything is written to a cache."""
        context = embeddings.shape[:2]
        fits = (
            embeddings.ndim == 3
            and embeddings.shape[2] == self.config.n_embd
            and positions.shape in (context, (1, context[1]))
            and (ids is None or ids.shape == context)
            and (padding is None or padding.shape == context)
            and (variance is None or variance.shape in (context, (1, context[1])))
        )
        if not fits:
            given = {"positions": positions, "ids": ids, "padding": padding, "variance": variance}
            raise ShapeError(
                f"a context needs embeddings (B, W, {self.config.n_embd}) and positions, ids and padding (B, W), "
                f"got embeddings {tuple(embeddings.shape)}, "
                + ", ".join(f"{name} {tuple(row.shape)}" for name, row in given.items() if row is not None)
            )
        batch, entries = context
        if cache is not None and not cache.has_room(batch, entries):
            raise ShapeError(
                f"a cache holds what it was reserved for, {cache.room} entries in {cache.batch} rows, got {batch} rows "
                f"of {entries} entries on top of {cache.length}; reserve a larger one"
            )

    def _smear(self, x: Tensor, any_token: bool, is_token: Tensor | None, cache: EntryCache | None) -> Tensor:
        """Give each token a gated share of the token directly before it; a gist neither gives nor takes."""
        past, past_is_token = (cache and cache.last()) or (None, None)
        taker, giver = x if past is not None else x[:, 1:], x[:, :-1]
        mask = is_token
        if past is not None:
            giver = past if x.shape[1] == 1 else torch.cat((past, giver), dim=1)
            if is_token is not None or past_is_token is not None:
                everywhere = torch.ones(*x.shape[:2], 1, dtype=torch.bool, device=x.device)
                here = everywhere if is_token is None else is_token
                before = everywhere[:, :1] if past_is_token is None else past_is_token
                mask = here & torch.cat((before, here[:, :-1]), dim=1)
        elif is_token is not None:
            mask = is_token[:, 1:] & is_token[:, :-1]
        if cache is not None:
            cache.remember(x, is_token)
        if not any_token or not taker.shape[1]:
            return x
        gate = self.smear_lambda * torch.sigmoid(self.smear_gate(taker[..., :SMEAR_CHANNELS]))
        if mask is not None:
            gate = gate * mask
        smeared = torch.addcmul(taker, gate, giver)
        return smeared if past is not None else torch.cat((x[:, :1], smeared), dim=1)

    def _sights(
        self, entries: int, padding: Tensor | None, cache: EntryCache | None, device: torch.device
    ) -> dict[int | None, Sight]:
        """What the layers see, by the length of their window."""
        if cache is not None:
            return {window: cache.sight(window, entries, padding) for window in self._lengths}
        allowed = None if padding is None else ~padding
        return {window: sight(window, 0, entries, allowed, device) for window in self._lengths}


def _token_mask(ids: Tensor | None, batch: int, entries: int, device: torch.device) -> Tensor | None:
    """Which entries are tokens, bool (B, W, 1); None when all are, as far as that is known without waiting.

    On a CPU a look at the ids saves the products with the mask; on a GPU, and in a compiled graph, the look would cost
    more than they do.
    """
    if ids is None:
        return torch.zeros(batch, entries, 1, dtype=torch.bool, device=device)
    if ids.is_cpu and not torch.compiler.is_compiling() and (not ids.numel() or ids.min() >= 0):
        return None
    return (ids >= 0)[..., None]
