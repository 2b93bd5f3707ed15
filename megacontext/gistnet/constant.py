"""A constant prefix: one trained row of keys and values for all texts, the control of every kind of cache gist.

Whatever trained entries give that does not depend on what they stand for (a genre, a style, a sink), a constant prefix
of as many entries gives as well. What a gist gives beyond it is content.
"""

from __future__ import annotations

from torch import Tensor, nn

from megacontext.errors import ShapeError


class ConstantPrefix(nn.Module):
    """Keys and values (L, G, Hkv, D), each to stand where a gist would stand."""

    def __init__(self, keys: Tensor, values: Tensor):
        """Starts as these, e.g. as gists of some text."""
        super().__init__()
        self.keys = nn.Parameter(keys.detach().float().clone())
        self.values = nn.Parameter(values.detach().float().clone())

    def forward(self, count: int) -> tuple[Tensor, Tensor]:
        """The last `count` of them, (L, count, Hkv, D). Raises ShapeError for more than there are."""
        if not 0 <= count <= self.keys.shape[1]:
            raise ShapeError(
                f"a constant prefix has {self.keys.shape[1]} entries, got {count}; train a longer one"
            )
        first = self.keys.shape[1] - count
        return self.keys[:, first:], self.values[:, first:]
