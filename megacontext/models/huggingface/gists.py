"""Gists for a frozen base model: the mean of what they stand for, at the loudness of a token.

A mean of K vectors is about sqrt(K) times quieter than one of them, and a frozen decoder has never met an input so
quiet. `MeanGist` brings each mean to one root mean square, which is learnable and starts at that of the embedding
table: so it fits gists of gists as well. Untrained, it is the floor that every learned gist has to beat.

Deliberately knows nothing of trees or models: it needs their embedding table alone.
"""

from __future__ import annotations

from torch import Tensor, nn

from megacontext.errors import ShapeError

_SILENCE = 1e-12
"""Mean squares below this are taken for it: the mean of opposite vectors stays finite."""


class MeanGist(nn.Module):
    """(N, K, E) embeddings, or gists of the level below -> (N, E) gists of root mean square `scale`."""

    def __init__(self, table: Tensor):
        """`table` (V, E): the base model's embeddings of all its tokens, as its `embed` gives them."""
        super().__init__()
        self.scale = nn.Parameter(table.detach().float().square().mean().sqrt())

    def forward(self, embeddings: Tensor) -> Tensor:
        """Raises ShapeError for anything but (N, K, E) with K >= 1."""
        if embeddings.ndim != 3 or not embeddings.shape[1]:
            raise ShapeError(
                f"gists are made of blocks (N, K, E) with K at least 1, got {tuple(embeddings.shape)}; "
                "reshape the embeddings to blocks"
            )
        mean = embeddings.float().mean(dim=1)  # (N, K, E) -> (N, E)
        loudness = mean.square().mean(dim=-1, keepdim=True).clamp_min(_SILENCE).sqrt()
        return (self.scale * mean / loudness).to(embeddings.dtype)
