"""The processes that train together: one, or those that torchrun started.

`torchrun --nproc_per_node=8 -m megacontext train RECIPE` starts the same program eight times and says in the
environment which one is which. Gradients are averaged over them (DDP); rank 0 alone writes and talks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.models.devices import find_device


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes; changes the tensor in place where there are several."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every process has come to this point."""
        if self.size > 1:
            dist.barrier()

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        return bool(self.sum(torch.tensor([float(wish)], device=self.device)).item())


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """The world that the environment describes. Raises ConfigError, BackendUnavailableError for an unusable device."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = find_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(0, 1, chosen)
        return
    if chosen.type not in ("cuda", "cpu"):
        raise ConfigError(f"several processes train on cuda or cpu, got {chosen.type!r}; choose one of them")
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()
