"""Rotary positions under uncertainty: an entry that stands for a span turns by the mean of all its places."""

from __future__ import annotations

from torch import Tensor

from megakernels.backends import choose
from megakernels.errors import KernelShapeError
from megakernels.gaussian_rope import reference

BACKENDS = ("auto", "triton", "reference")


def gaussian_rope(x: Tensor, mean: Tensor, variance: Tensor, *, base: float, backend: str = "auto") -> Tensor:
    """Turn x (B, T, H, D) by positions of `mean` and `variance`, (B, T) or (1, T), in tokens and tokens squared.

    Use it on queries and keys after whatever normalises them: a norm would undo the damping. Multiply the variance by
    a parameter to have its scale learnt: the gradient goes there. Raises KernelShapeError for tensors that do not
    belong together, BackendUnavailableError for a backend that was named and cannot run here.
    """
    places = ((x.shape[0], x.shape[1]), (1, x.shape[1])) if x.ndim == 4 else ()
    if mean.shape not in places or variance.shape not in places or x.shape[-1] % 2:
        raise KernelShapeError(
            f"turning needs x (B, T, H, D) with D even and mean and variance (B, T) or (1, T), got {tuple(x.shape)}, "
            f"{tuple(mean.shape)} and {tuple(variance.shape)}"
        )
    if choose(backend, BACKENDS, x) == "triton":
        from megakernels.gaussian_rope.triton import rotate

        return rotate(x, mean, variance, base)
    return reference.rotate(x, mean, variance, base)
