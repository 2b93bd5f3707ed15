"""A working context as one contiguous row of input embeddings: of tokens from the model's table, of gists as stored.

Gists come off the disk as float16, or as int8 with a scale each; they are widened while they are put in their places.
Forward only: what is stored does not learn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megakernels.backends import choose
from megakernels.errors import KernelShapeError
from megakernels.gather_entries import reference

BACKENDS = ("auto", "triton", "reference")
STORED = (torch.float16, torch.bfloat16, torch.float32, torch.int8)


@torch.no_grad()
def gather_entries(
    source: Tensor,
    table: Tensor,
    stored: Tensor,
    scale: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Row w of the result (W, E) is row `source[w]` of `table` (V, E), or for -1 - g gist g of `stored` (G, E).

    `stored` is of any of STORED; int8 wants `scale` (G,), by which each gist is multiplied. `dtype` is the table's
    unless given. Raises KernelShapeError for tensors that do not belong together (that every source is there is the
    caller's to know: asking would wait for the device), BackendUnavailableError as the others.
    """
    fits = (
        source.ndim == 1
        and not source.is_floating_point()
        and table.ndim == stored.ndim == 2
        and table.shape[1] == stored.shape[1]
        and stored.dtype in STORED
        and (scale is None or scale.shape == stored.shape[:1])
        and (scale is not None or stored.dtype != torch.int8)
    )
    if not fits:
        raise KernelShapeError(
            "gathering needs integers (W,), a table (V, E) and gists (G, E) of float or int8, the latter with a scale "
            f"(G,), got {source.dtype} {tuple(source.shape)}, {tuple(table.shape)}, {stored.dtype} "
            f"{tuple(stored.shape)} and {None if scale is None else tuple(scale.shape)}"
        )
    dtype = dtype or table.dtype
    if choose(backend, BACKENDS, table) == "triton":
        from megakernels.gather_entries.triton import gather

        return gather(source, table, stored, scale, dtype)
    return reference.gather(source, table, stored, scale, dtype)
