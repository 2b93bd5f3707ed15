"""Low-rank changes of a frozen network's matrices (LoRA, Hu et al. 2021), merged into them at the end.

While they are in place a matrix is its old self plus up @ down, and only these two are trained; `up` begins at zero, so
nothing changes at first. Merged, the network has the parameters that it always had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """W -> W + up @ down."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        rows, columns = weight.shape
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(torch.randn(rank, columns, device=weight.device) * columns**-0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


@contextmanager
def low_rank(network: nn.Module, rank: int) -> Iterator[list[nn.Parameter]]:
    """Freeze `network`, give its linear layers low-rank changes and yield these; merge them on the way out."""
    wanted = {name: one.requires_grad for name, one in network.named_parameters()}
    linears = [one for one in network.modules() if isinstance(one, nn.Linear) and min(one.weight.shape) > 1]
    network.requires_grad_(False)
    changes = [LowRank(one.weight, rank) for one in linears]
    for linear, change in zip(linears, changes, strict=True):
        parametrize.register_parametrization(linear, "weight", change)
    try:
        yield [parameter for change in changes for parameter in change.parameters()]
    finally:
        for linear in linears:
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(wanted[name])
