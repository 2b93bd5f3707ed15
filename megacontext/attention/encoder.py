"""A pre-norm transformer layer without a causal mask, for sets of vectors: GistNet, AddressNet and LensNet use it.

Deliberately without positions: what order means differs between its users, so they bring it as embeddings or as a
mask per head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.errors import ConfigError


class EncoderLayer(nn.Module):
    """Attention and a GELU feed-forward layer, each on the layer-normed stream and added to it."""

    def __init__(self, width: int, heads: int, expansion: int = 4):
        super().__init__()
        if width % heads:
            raise ConfigError(f"an encoder's width must be a multiple of its heads, got {width} and {heads}")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, expansion * width)
        self.feed_out = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, E) -> (B, N, E). `mask` bool, broadcastable to (B, H, N, N): True where a query may look."""
        batch, entries, width = x.shape
        heads = (batch, entries, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(self.attention_norm(x)).view(heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(batch, entries, width))
        return x + self.feed_out(F.gelu(self.feed_in(self.feed_norm(x))))
