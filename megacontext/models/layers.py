"""One layer of the base model: attention and feed-forward, in nanochat's arithmetic.

Parameter names are nanochat's. What an entry sees comes in as a `Sight`, where it stands as a `Rotation`; a layer
knows neither windows nor positions, and of a gist only that its share of the value embedding is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megacontext.attention.rotary import Rotation, rotate
from megacontext.models.cache import EntryCache
from megacontext.models.dialect import Dialect
from megacontext.models.pointwise import rms_norm, squared_relu
from megacontext.models.windows import Sight


def has_value_embedding(layer: int, n_layer: int) -> bool:
    """Every second layer, counted so that the last one always has them."""
    return layer % 2 == (n_layer - 1) % 2


@dataclass(frozen=True)
class ValueEmbedding:
    """What a layer adds to its values: a vector per entry, and which entries have one."""

    vectors: Tensor
    """(B, W, Hkv * D)."""
    is_token: Tensor | None
    """bool (B, W, 1): False for gists, which get nothing; None when every entry is a token."""


class Attention(nn.Module):
    """Causal attention with rotary positions, QK-norm and, in some layers, gated value embeddings."""

    def __init__(
        self, dialect: Dialect, *, width: int, heads: int, kv_heads: int, layer: int, value_embedding: bool
    ):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, width // heads
        self.layer = layer
        # Queries and keys each carry the factor; their product carries its square.
        self.scale = dialect.qk_scale**2 / self.head_dim**0.5
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_k = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.c_v = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.gate_channels, self.gate_scale = dialect.value_gate_channels, dialect.value_gate_scale
        if value_embedding:
            self.ve_gate = nn.Linear(self.gate_channels, kv_heads, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        sight: Sight,
        value_embedding: ValueEmbedding | None,
        cache: EntryCache | None,
    ) -> Tensor:
        """x (B, W, E), normed -> (B, W, E)."""
        batch, entries, _ = x.shape
        q = self.c_q(x).view(batch, entries, self.heads, self.head_dim)
        k = self.c_k(x).view(batch, entries, self.kv_heads, self.head_dim)
        v = self.c_v(x).view(batch, entries, self.kv_heads, self.head_dim)
        if value_embedding is not None:
            gate = self.gate_scale * torch.sigmoid(self.ve_gate(x[..., : self.gate_channels]))
            if value_embedding.is_token is not None:
                gate = gate * value_embedding.is_token
            v = torch.addcmul(v, gate[..., None], value_embedding.vectors.view_as(v))
        # Queries and keys side by side: half as many small operations, which is what a decoding step consists of.
        qk = rms_norm(rotate(torch.cat((q, k), dim=2), rotation[:2]))
        if rotation.damping is not None:
            qk = (qk * rotation.damping).to(qk.dtype)
        q, k = qk.split((self.heads, self.kv_heads), dim=2)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v, sight.first)
        return self.c_proj(sight.attend(q, k, v, self.scale).reshape(batch, entries, -1))


class MLP(nn.Module):
    """Squared-ReLU feed-forward layer, four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, W, E), normed -> (B, W, E)."""
        return self.c_proj(squared_relu(self.c_fc(x)))


class Block(nn.Module):
    """Attention and feed-forward, each on the normed stream and added to it."""

    def __init__(self, attention: Attention, width: int):
        super().__init__()
        self.attn = attention
        self.mlp = MLP(width)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        sight: Sight,
        value_embedding: ValueEmbedding | None,
        cache: EntryCache | None,
    ) -> Tensor:
        """x (B, W, E) -> (B, W, E)."""
        x = x + self.attn(rms_norm(x), rotation, sight, value_embedding, cache)
        return x + self.mlp(rms_norm(x))
