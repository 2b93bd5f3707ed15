"""How far one backend is from the float64 reference, outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RELATIVE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
LEAST_COSINE = 0.9999


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest value; of what is infinite nothing may differ."""
    found, wanted = found.double(), wanted.double()
    finite = torch.isfinite(wanted)
    assert torch.equal(torch.isfinite(found), finite) and torch.equal(found[~finite], wanted[~finite])
    if not finite.any():
        return 0.0
    return float((found[finite] - wanted[finite]).abs().max() / wanted[finite].abs().max().clamp_min(1e-12))


def run(
    operation: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], weigh: Tensor, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of the inputs for the first output weighed by `weigh`, plus the finite part of others."""
    taken = [one.to(dtype).clone().requires_grad_() for one in inputs]
    outputs = operation(*taken)
    total = (outputs[0] * weigh.to(dtype)).sum()
    for other in outputs[1:]:
        total = total + other[torch.isfinite(other)].sum()
    total.backward()
    return [one.detach() for one in outputs], [one.grad for one in taken]


def check(
    operation: Callable[..., tuple[Tensor, ...]],
    reference: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    weigh: Tensor,
    dtype: torch.dtype,
) -> None:
    """`operation` in `dtype` against `reference` in float64, on inputs that are rounded to `dtype` for both."""
    inputs = [one.to(dtype).double() for one in inputs]
    weigh = weigh.to(dtype).double()
    found, slopes = run(operation, inputs, weigh, dtype)
    wanted, true_slopes = run(reference, inputs, weigh, torch.float64)
    for one, other in zip(found, wanted, strict=True):
        assert relative(one, other) <= RELATIVE[dtype], relative(one, other)
    for slope, true_slope in zip(slopes, true_slopes, strict=True):
        if true_slope.norm() > 1e-9:
            cosine = torch.nn.functional.cosine_similarity(
                slope.double().flatten(), true_slope.flatten(), dim=0
            )
            assert cosine >= LEAST_COSINE, float(cosine)
        else:
            assert slope.abs().max() <= RELATIVE[dtype]
