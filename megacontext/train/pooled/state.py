"""A saved state of a training of pooled gists, from which it goes on as if it had never stopped.

    state.safetensors    weights, the optimiser's memory, the generator's state; in its metadata, as JSON: steps done
                         and what was told so far

It is written under another name and renamed whole. It is nothing but numbers: reading one runs no code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from megacontext.errors import CheckpointError

FORMAT = 1
_FILE = "state.safetensors"


def save_state(
    run: Path, net: nn.Module, optimiser: torch.optim.Optimizer, chance: torch.Generator, **about: Any
) -> None:
    """Write the state of a training into its run's folder; `about` is what JSON can hold."""
    tensors = {f"net.{name}": one for name, one in net.state_dict().items()} | {"chance": chance.get_state()}
    for number, remembered in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(one) for name, one in remembered.items()}
    aside = run / f"{_FILE}.tmp"
    told = {"state": json.dumps({"format": FORMAT, **about})}
    save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, aside, told)
    os.replace(aside, run / _FILE)


def read_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the `about` of a run's state. Raises CheckpointError for none, a damaged or a newer one."""
    try:
        with safe_open(run / _FILE, "pt") as file:
            about = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, KeyError, SafetensorError) as problem:
        raise CheckpointError(
            f"going on needs a whole {_FILE}, {run} has none ({problem}); give a run that saved one, or begin anew"
        ) from None
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"this version reads states of format {FORMAT}, {run} has {about.get('format')}; update MegaContext"
        )
    return tensors, about


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """What it remembered, into an optimiser over the same parameters."""
    remembered: dict[int, dict[str, Tensor]] = {}
    for name, one in tensors.items():
        if name.startswith("optimiser."):
            _, number, part = name.split(".")
            remembered.setdefault(int(number), {})[part] = one
    optimiser.load_state_dict(optimiser.state_dict() | {"state": remembered})
