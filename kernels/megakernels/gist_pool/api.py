"""A block of members becomes one: embeddings of tokens, or keys or values of every layer and head at once.

With H heads each pools by weights of its own; an embedding is one head as wide as the model. Keys are pooled as they
are before they are turned to their places: see `gaussian_rope` for turning the result.
"""

from __future__ import annotations

from torch import Tensor

from megakernels.backends import choose
from megakernels.errors import KernelShapeError
from megakernels.gist_pool import reference

BACKENDS = ("auto", "triton", "reference")


def gist_pool(x: Tensor, logits: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """Members x (N, K, H, D) of N blocks -> (N, H, D): their mean, or weighted by the softmax of `logits` (N, K, H).

    Layers are more blocks: (L * N, K, H, D). Raises KernelShapeError for tensors that do not belong together,
    BackendUnavailableError for a backend that was named and cannot run here.
    """
    if x.ndim != 4 or not x.shape[1] or (logits is not None and logits.shape != x.shape[:3]):
        raise KernelShapeError(
            "pooling needs members (N, K, H, D) with K >= 1, and logits (N, K, H) or none, got "
            f"{tuple(x.shape)} and {None if logits is None else tuple(logits.shape)}"
        )
    if choose(backend, BACKENDS, x) == "triton":
        from megakernels.gist_pool.triton import pool

        return pool(x, logits)
    return reference.pool(x, logits)
