"""Optimisers and their schedules: Muon for the matrices inside the networks, AdamW for everything else.

Both are torch's own, but for Muon in float32 (`train.muon`). `OptimiserConfig` is for the small networks that are
trained together here; a vanilla base model has its groups and rates from nanochat (`pretrain/rates.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from megacontext.errors import CheckpointError, ConfigError
from megacontext.train.muon import FloatMuon

Kind = Literal["muon", "float-muon", "adamw"]


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
    matrix_precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of Muon's iteration. float32 where the processor has no arithmetic of bfloat16: see `train.muon`."""

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

    def groups(self, networks: Iterable[nn.Module]) -> list[Group]:
        """The parameters of `networks`, each in the group of its kind."""
        matrices, others = [], []
        for network in networks:
            for name, parameter in network.named_parameters():
                inside = parameter.ndim == 2 and ".weight" in name and (".h." in name or "layers." in name)
                (matrices if inside and "gate" not in name else others).append(parameter)
        return [
            Group(parameters=others, lr=self.other_lr),
            Group(
                parameters=matrices,
                lr=self.matrix_lr,
                kind="muon" if self.matrix_precision == "bfloat16" else "float-muon",
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that share a rate."""

    parameters: Sequence[nn.Parameter]
    lr: float
    kind: Kind = "adamw"
    betas: tuple[float, float] = (0.8, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0


class Optimisers:
    """One Muon and one AdamW over some groups, stepped as one."""

    def __init__(self, groups: Iterable[Group]):
        kinds: dict[Kind, list[Group]] = {kind: [] for kind in _MAKERS}
        for group in groups:
            if group.parameters:
                kinds[group.kind].append(group)
        self._all = [_MAKERS[kind](chosen) for kind, chosen in kinds.items() if chosen]
        self._groups = [group for chosen in kinds.values() for group in chosen]

    def step(self, factor: float, *, momentum: float | None = None, decay_factor: float = 1.0) -> None:
        """Update at `factor` of the full rates and clear the gradients.

        `momentum` is Muon's, `decay_factor` the share of the groups' weight decay that is in force.
        """
        # Looked up each time: torch makes new ones whenever a state is restored.
        settings_of_all = (settings for one in self._all for settings in one.param_groups)
        for settings, group in zip(settings_of_all, self._groups, strict=True):
            settings["lr"] = group.lr * factor
            settings["weight_decay"] = group.weight_decay * decay_factor
            if momentum is not None and group.kind != "adamw":
                settings["momentum"] = momentum
        for one in self._all:
            one.step()
            one.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on besides the weights, by a name made of numbers and the state's own."""
        return {
            f"{number}.{index}.{name}": tensor
            for number, one in enumerate(self._all)
            for index, entries in one.state_dict()["state"].items()
            for name, tensor in entries.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken. Raises CheckpointError if it is not of these parameters."""
        for number, one in enumerate(self._all):
            entries: dict[int, dict[str, Tensor]] = {}
            for key, tensor in state.items():
                owner, index, name = key.split(".", 2)
                if int(owner) == number:
                    entries.setdefault(int(index), {})[name] = tensor
            parameters = [parameter for group in one.param_groups for parameter in group["params"]]
            fits = set(entries) <= set(range(len(parameters))) and all(
                tensor.ndim == 0 or tensor.shape == parameters[index].shape
                for index, of_one in entries.items()
                for tensor in of_one.values()
            )
            if not fits or len(entries) not in (0, len(parameters)):
                raise CheckpointError(
                    f"an optimiser's state must be of its {len(parameters)} parameters, got one of {len(entries)} or "
                    "of other shapes; resume with the recipe that the run began with"
                )
            one.load_state_dict({"state": entries, "param_groups": one.state_dict()["param_groups"]})


def _adamw(groups: list[Group]) -> torch.optim.Optimizer:
    settings = [
        {"params": list(group.parameters), "lr": group.lr, "betas": group.betas, "eps": group.eps}
        for group in groups
    ]
    return torch.optim.AdamW(settings, weight_decay=0.0, fused=True)


def _muon(kind: type[torch.optim.Muon], groups: list[Group]) -> torch.optim.Optimizer:
    settings = [{"params": list(group.parameters), "lr": group.lr} for group in groups]
    return kind(settings, momentum=0.95, weight_decay=0.0)


_MAKERS: dict[Kind, Callable[[list[Group]], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "muon": partial(_muon, torch.optim.Muon),
    "float-muon": partial(_muon, FloatMuon),
}
