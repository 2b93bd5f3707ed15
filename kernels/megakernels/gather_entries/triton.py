"""The same on a GPU in one launch: each row is read from where it lies and written where it goes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDTH = 1024
"""Numbers of a row that one program moves."""


def gather(source: Tensor, table: Tensor, stored: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """As `reference.gather`."""
    count, width = len(source), table.shape[1]
    out = torch.empty((count, width), dtype=dtype, device=table.device)
    if not out.numel():
        return out
    table, stored = (one if one.stride(-1) == 1 else one.contiguous() for one in (table, stored))
    block = min(_WIDTH, triton.next_power_of_2(width))
    _gather[(count, triton.cdiv(width, block))](
        source.contiguous(), table, table.stride(0), stored, stored.stride(0), stored if scale is None else scale, out,
        width, SCALED=scale is not None, BLOCK=block,
    )  # fmt: skip
    return out


@triton.jit
def _gather(
    source_at, table_at, table_t, stored_at, stored_t, scale_at, out_at, width,
    SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(source_at + row).to(tl.int64)
    inside = column < width
    if source >= 0:
        found = tl.load(table_at + source * table_t + column, mask=inside, other=0.0).to(tl.float32)
    else:
        gist = -source - 1
        found = tl.load(stored_at + gist * stored_t + column, mask=inside, other=0).to(tl.float32)
        if SCALED:
            found = found * tl.load(scale_at + gist).to(tl.float32)
    tl.store(out_at + row * width + column, found.to(out_at.dtype.element_ty), mask=inside)
