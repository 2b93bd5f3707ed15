"""Optimisers and their schedule: Muon for the matrices inside the networks, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from megacontext.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Learning rates and the shape of their schedule."""

    matrix_lr: float = 0.02
    """Muon (Jordan 2024), for every two-dimensional weight inside a layer."""
    other_lr: float = 3e-3
    """AdamW, for embeddings, heads, gates and vectors."""
    warmup_steps: int = 10
    decay_share: float = 0.4
    """The last share of the steps, over which the rates fall linearly to zero."""

    def __post_init__(self) -> None:
        if min(self.matrix_lr, self.other_lr) <= 0 or not 0 <= self.decay_share <= 1 or self.warmup_steps < 0:
            raise ConfigError(
                "learning rates must be positive, decay_share lie in [0, 1] and warmup_steps not be negative, got "
                f"{self.matrix_lr}, {self.other_lr}, {self.decay_share}, {self.warmup_steps}"
            )

    def factor(self, step: int, steps: int) -> float:
        """Share of the full rate at `step` of `steps`: up, level, down."""
        up = (step + 1) / max(1, self.warmup_steps)
        down = (steps - step) / max(1.0, self.decay_share * steps)
        return min(1.0, up, down)


class Optimisers:
    """One Muon and one AdamW over the trainable parameters of some networks, stepped as one."""

    def __init__(self, networks: Iterable[nn.Module], config: OptimiserConfig):
        self.config = config
        matrices, others = [], []
        for network in networks:
            for name, parameter in network.named_parameters():
                inside = parameter.ndim == 2 and ".weight" in name and (".h." in name or "layers." in name)
                (matrices if inside and "gate" not in name else others).append(parameter)
        self._all = [
            torch.optim.AdamW(others, lr=config.other_lr, betas=(0.8, 0.95), weight_decay=0.0, fused=True),
        ]
        if matrices:
            self._all.append(torch.optim.Muon(matrices, lr=config.matrix_lr, momentum=0.95, weight_decay=0.0))
        self._full = [[group["lr"] for group in one.param_groups] for one in self._all]

    def step(self, step: int, steps: int) -> float:
        """Update at the rate that the schedule gives, clear the gradients, and return that share of the full rate."""
        factor = self.config.factor(step, steps)
        for one, rates in zip(self._all, self._full, strict=True):
            for group, rate in zip(one.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            one.step()
            one.zero_grad(set_to_none=True)
        return factor
