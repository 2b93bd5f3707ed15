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

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.attention.rotary import rotary_tables, rotate
from megacontext.errors import ConfigError, ShapeError
from megacontext.models.dialect import DIALECTS, Dialect

NO_TOKEN = -1
"""Id of an entry that is no token: a gist, or padding."""
_SMEAR_CHANNELS = 24


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Shape of the base model, in nanochat's words, and the dialect it speaks."""

    dialect: str = "current"
    sequence_len: int = 2048
    vocab_size: int = 32_768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "L"

    def __post_init__(self) -> None:
        DIALECTS.get(self.dialect)
        if (
            min(self.sequence_len, self.vocab_size, self.n_layer, self.n_head, self.n_kv_head, self.n_embd)
            < 1
        ):
            raise ConfigError("every size of model.* must be at least 1; raise the one that is not")
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            raise ConfigError(
                f"model.n_embd must be an even multiple of n_head, got {self.n_embd} and {self.n_head}; change one"
            )
        if self.n_head % self.n_kv_head:
            raise ConfigError(
                f"model.n_head must be a multiple of n_kv_head, got {self.n_head} and {self.n_kv_head}; change one"
            )
        if DIALECTS.get(self.dialect).smear and self.n_embd < _SMEAR_CHANNELS:
            raise ConfigError(
                f"model.n_embd must be at least {_SMEAR_CHANNELS} in dialect {self.dialect!r}, whose smear gate reads "
                f"so many channels, got {self.n_embd}; raise it or choose another dialect"
            )
        if not self.window_pattern or set(self.window_pattern) - set("LS"):
            raise ConfigError(
                f"model.window_pattern must be letters L (long) and S (short), got {self.window_pattern!r}; "
                "use L for windows that see everything"
            )

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


@dataclass
class KVCache:
    """Keys and values (B, W, Hkv, D) of every layer for the entries read so far, and what the next step needs.

    Grows by concatenation-free writes into room reserved at creation. One cache belongs to one decoding; the model
    is the only writer.
    """

    keys: list[Tensor]
    values: list[Tensor]
    allowed: Tensor
    """Which entries may be attended to, bool (B, room): False for padding."""
    length: int = 0
    last_embedding: Tensor | None = field(default=None)
    last_is_token: Tensor | None = field(default=None)

    @staticmethod
    def bytes_per_position(config: GPTConfig) -> int:
        """Bytes that a decode step reads for each entry that it attends to: float32 keys and values of all layers."""
        return 2 * 4 * config.n_layer * config.n_kv_head * config.head_dim

    @classmethod
    def reserve(cls, config: GPTConfig, batch: int, room: int, like: Tensor) -> KVCache:
        """An empty cache with room for `room` entries, on the device and in the type of `like`."""
        shape = (batch, room, config.n_kv_head, config.head_dim)
        return cls(
            keys=[like.new_empty(shape) for _ in range(config.n_layer)],
            values=[like.new_empty(shape) for _ in range(config.n_layer)],
            allowed=torch.zeros(batch, room, dtype=torch.bool, device=like.device),
        )

    def has_room(self, batch: int, entries: int) -> bool:
        """Whether `entries` more fit, in a batch of that size."""
        rows, room = self.allowed.shape
        return batch == rows and self.length + entries <= room


def rms_norm(x: Tensor) -> Tensor:
    """RMSNorm without a weight, over the last axis."""
    return F.rms_norm(x, (x.shape[-1],))


def has_value_embedding(layer: int, n_layer: int) -> bool:
    """Every second layer, counted so that the last one always has them."""
    return layer % 2 == (n_layer - 1) % 2


class Attention(nn.Module):
    """Causal attention with rotary positions, QK-norm and, in some layers, gated value embeddings."""

    def __init__(self, config: GPTConfig, dialect: Dialect, layer: int):
        super().__init__()
        width, kv_width = config.n_embd, config.n_kv_head * config.head_dim
        self.heads, self.kv_heads, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.qk_scale = dialect.qk_scale
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_k = nn.Linear(width, kv_width, bias=False)
        self.c_v = nn.Linear(width, kv_width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.gate_channels, self.gate_scale = dialect.value_gate_channels, dialect.value_gate_scale
        if self.gate_channels and has_value_embedding(layer, config.n_layer):
            self.ve_gate = nn.Linear(self.gate_channels, config.n_kv_head, bias=False)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
        value_embedding: Tensor | None,
        cache: KVCache | None,
        layer: int,
    ) -> Tensor:
        """x (B, W, E), normed -> (B, W, E). `mask` bool (B|1, 1, W, keys) or None for plain causal."""
        batch, entries, _ = x.shape
        q = self.c_q(x).view(batch, entries, self.heads, self.head_dim)
        k = self.c_k(x).view(batch, entries, self.kv_heads, self.head_dim)
        v = self.c_v(x).view(batch, entries, self.kv_heads, self.head_dim)
        if value_embedding is not None:
            gate = self.gate_scale * torch.sigmoid(self.ve_gate(x[..., : self.gate_channels]))
            v = v + gate[..., None] * value_embedding.view_as(v)
        q = rms_norm(rotate(q, tables)) * self.qk_scale
        k = rms_norm(rotate(k, tables)) * self.qk_scale
        if cache is not None:
            past = cache.length
            cache.keys[layer][:, past : past + entries] = k
            cache.values[layer][:, past : past + entries] = v
            k = cache.keys[layer][:, : past + entries]
            v = cache.values[layer][:, : past + entries]
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.heads != self.kv_heads,
        )
        return self.c_proj(y.transpose(1, 2).reshape(batch, entries, -1))


class MLP(nn.Module):
    """Squared-ReLU feed-forward layer, four times as wide inside."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """One layer: attention and feed-forward, each on the normed stream and added to it."""

    def __init__(self, config: GPTConfig, dialect: Dialect, layer: int):
        super().__init__()
        self.attn = Attention(config, dialect, layer)
        self.mlp = MLP(config)


class GPT(nn.Module):
    """embed(ids) -> forward(embeddings, positions) -> unembed(hidden)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.dialect = dialect = DIALECTS.get(config.dialect)
        rows = -(-config.vocab_size // dialect.vocab_multiple) * dialect.vocab_multiple
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(rows, config.n_embd),
                "h": nn.ModuleList(Block(config, dialect, layer) for layer in range(config.n_layer)),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, rows, bias=False)
        if dialect.residual_scalars:
            self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
            self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        if dialect.smear:
            self.smear_gate = nn.Linear(_SMEAR_CHANNELS, 1, bias=False)
            self.smear_lambda = nn.Parameter(torch.zeros(1))
        if dialect.backout:
            self.backout_lambda = nn.Parameter(torch.zeros(1))
        if dialect.value_gate_channels:
            kv_width = config.n_kv_head * config.head_dim
            self.value_embeds = nn.ModuleDict(
                {
                    str(layer): nn.Embedding(rows, kv_width)
                    for layer in range(config.n_layer)
                    if has_value_embedding(layer, config.n_layer)
                }
            )

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
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states (B, W, E), normed and ready for `unembed`.

        `embeddings` (B, W, E) in time order; `positions` (B, W), in tokens, on any origin (rotary positions are
        relative). `ids` (B, W): the token id of each entry, NO_TOKEN for a gist; None says that all are gists.
        `padding` bool (B, W): True where an entry is only filling and must not be seen. With a `cache`, the entries
        follow those that it holds. Raises ShapeError when the arguments do not belong together.
        """
        given = {"positions": positions, "ids": ids, "padding": padding}
        shapes = {name: tuple(row.shape) for name, row in given.items() if row is not None}
        if embeddings.ndim != 3 or any(
            (*shape, self.config.n_embd) != tuple(embeddings.shape) for shape in shapes.values()
        ):
            raise ShapeError(
                f"a context needs embeddings (B, W, {self.config.n_embd}) and positions, ids and padding (B, W), "
                f"got embeddings {tuple(embeddings.shape)}, "
                + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            )
        batch, entries, _ = embeddings.shape
        if cache is not None and not cache.has_room(batch, entries):
            rows, room = cache.allowed.shape
            raise ShapeError(
                f"a cache holds what it was reserved for, {room} entries in {rows} rows, got {batch} rows of {entries} "
                f"entries on top of {cache.length}; reserve a larger one"
            )
        if ids is None:
            ids = torch.full((batch, entries), NO_TOKEN, device=embeddings.device)
        is_token = (ids >= 0)[..., None]
        x = rms_norm(embeddings)
        if self.dialect.smear:
            x = self._smear(x, is_token, cache)
        tables = rotary_tables(positions, self.config.head_dim, self.dialect.rope_base)
        masks = self._masks(batch, entries, padding, cache, embeddings.device)

        first, middle = x, None
        for layer, block in enumerate(self.transformer["h"]):
            if self.dialect.residual_scalars:
                x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * first
            value = None
            if self.dialect.value_gate_channels and has_value_embedding(layer, self.config.n_layer):
                value = self.value_embeds[str(layer)](ids.clamp_min(0)) * is_token
            x = x + block.attn(rms_norm(x), tables, masks[self._window(layer)], value, cache, layer)
            x = x + block.mlp(rms_norm(x))
            if layer == self.config.n_layer // 2:
                middle = x
        if cache is not None:
            cache.length += entries
        if self.dialect.backout and middle is not None:
            x = x - self.backout_lambda * middle
        return rms_norm(x)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Capped logits, float32 (..., V), of hidden states (..., E)."""
        logits = self.lm_head(hidden)[..., : self.config.vocab_size].float()
        return self.dialect.softcap * torch.tanh(logits / self.dialect.softcap)

    def _smear(self, x: Tensor, is_token: Tensor, cache: KVCache | None) -> Tensor:
        """Give each token a gated share of the token directly before it; a gist neither gives nor takes."""
        if cache is not None and cache.last_embedding is not None:
            before = torch.cat((cache.last_embedding, x[:, :-1]), dim=1)
            before_is_token = torch.cat((cache.last_is_token, is_token[:, :-1]), dim=1)
        else:
            before = F.pad(x[:, :-1], (0, 0, 1, 0))
            before_is_token = F.pad(is_token[:, :-1], (0, 0, 1, 0))
        if cache is not None:
            cache.last_embedding, cache.last_is_token = x[:, -1:], is_token[:, -1:]
        gate = self.smear_lambda * torch.sigmoid(self.smear_gate(x[..., :_SMEAR_CHANNELS]))
        return x + gate * before * (is_token & before_is_token)

    def _window(self, layer: int) -> int | None:
        """How many entries back `layer` sees, itself not counted; None when it sees the whole sequence."""
        pattern = self.config.window_pattern
        short = pattern[layer % len(pattern)] == "S" and layer != self.config.n_layer - 1
        if not short or not self.dialect.short_window_divisor:
            return None
        return -(-self.config.sequence_len // (self.dialect.short_window_divisor * 128)) * 128

    def _masks(
        self, batch: int, entries: int, padding: Tensor | None, cache: KVCache | None, device: torch.device
    ) -> dict[int | None, Tensor | None]:
        """One mask per window length in use: bool (B|1, 1, W, keys), or None where plain causal attention serves."""
        past = 0 if cache is None else cache.length
        if cache is not None:
            cache.allowed[:, past : past + entries] = True if padding is None else ~padding
        windows = {self._window(layer) for layer in range(self.config.n_layer)}
        keys = past + entries
        plain = padding is None and past == 0
        masks: dict[int | None, Tensor | None] = {}
        for window in windows:
            if plain and (window is None or keys <= window + 1):
                masks[window] = None
                continue
            query = torch.arange(past, keys, device=device)[:, None]
            key = torch.arange(keys, device=device)[None, :]
            mask = key <= query
            if window is not None:
                mask = mask & (key >= query - window)
            mask = mask[None, None].expand(batch, 1, -1, -1)
            if cache is not None:
                mask = mask & cache.allowed[:, None, None, :keys]
            elif padding is not None:
                mask = mask & ~padding[:, None, None, :]
            # A padded query sees itself, so that its softmax has something to sum; nobody reads the result.
            masks[window] = mask | (key == query)
        return masks
