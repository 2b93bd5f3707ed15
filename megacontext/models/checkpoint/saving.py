"""A GPT becomes a checkpoint that nanochat of its dialect loads: names, padded rows, file names and meta are its own.

Each file is written aside and renamed when it is on disk, meta last. So a checkpoint with its meta is whole, and one
that was cut off has none and is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from megacontext.errors import CheckpointError
from megacontext.models.checkpoint.layout import meta_file, model_file, write_whole
from megacontext.models.gpt import GPT, GPTConfig


def model_config_of(config: GPTConfig) -> dict[str, Any]:
    """The shape as nanochat of that dialect takes it: without a window pattern before there were windows."""
    shape = dataclasses.asdict(config)
    del shape["dialect"]
    if config.windows[-1] is None:
        del shape["window_pattern"]
    return shape


def save_checkpoint(
    folder: Path,
    step: int,
    model: GPT,
    meta: Mapping[str, Any] | None = None,
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> Path:
    """Write model_<step>.pt and meta_<step>.json into `folder`, made if need be; returns the path of the weights.

    `meta` is what else is to be said (JSON values); `step` and `model_config` are set here. `dtypes` gives tensors
    another type on disk, by name, as LoadedCheckpoint.dtypes has them. A checkpoint of the same step is replaced.
    Raises CheckpointError for a meta that is no JSON, a type for a tensor that the model has not, and a disk that
    refuses.
    """
    if step < 0:
        raise CheckpointError(f"a step counts from 0, got {step}; give the number of steps trained")
    state, dtypes = model.state_dict(), dict(dtypes or {})
    unknown = sorted(dtypes.keys() - state.keys())
    if unknown:
        raise CheckpointError(f"dtypes must name tensors of the model, {unknown[0]!r} is none; leave it out")
    described = {**(meta or {}), "step": step, "model_config": model_config_of(model.config)}
    try:
        text = json.dumps(described, indent=2)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"meta must hold JSON values only ({problem}); leave the others out") from None
    on_disk = {
        name: tensor.detach().to("cpu", dtypes.get(name, tensor.dtype)).contiguous()
        for name, tensor in state.items()
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # From here on an earlier checkpoint of this step is no longer whole.
        meta_file(folder, step).unlink(missing_ok=True)
    except OSError as problem:
        raise CheckpointError(
            f"a checkpoint needs a folder, {folder} cannot be one ({problem.strerror}); choose another"
        ) from None
    path = model_file(folder, step)
    write_whole(path, lambda file: torch.save(on_disk, file))
    write_whole(meta_file(folder, step), lambda file: file.write(text.encode()))
    return path
