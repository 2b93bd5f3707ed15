"""Saved states of an end-to-end run: weights, averages, what every part's optimiser remembers, and the step.

In the files and with the care of `train.pretrain.state`: numbers alone, written aside and renamed whole. Since all that
is drawn follows from seed and step, nothing else is needed to go on bit for bit.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from megacontext.config import fingerprint
from megacontext.errors import CheckpointError
from megacontext.train.joint.trainer import JointTrainer
from megacontext.train.pretrain.state import FOLDER, check_belongs, read_about, read_tensors, write_state

_AVERAGE = "average."
_KEPT = 2
"""States that are kept: the last, and the one before it in case the last is damaged by the machine."""


def save_joint_state(trainer: JointTrainer, run: Path, **loop: Any) -> Path:
    """Write the state of `trainer` into the run's folder, with what the loop wants to know again. Returns its path."""
    weights = {
        f"{prefix}.{name}": tensor
        for prefix, part in trainer.parts.items()
        for name, tensor in part.state_dict().items()
    }
    weights |= {_AVERAGE + name: tensor for name, tensor in trainer.averages.items()}
    remembered = {
        f"{part}.{name}": tensor
        for part, optimiser in trainer.optimisers.items()
        for name, tensor in optimiser.state().items()
    }
    about = {"recipe": fingerprint(trainer.config), "model": trainer.began_from, "loop": loop}
    about["positions_read"] = trainer.positions_read
    folder = write_state(run, trainer.step, weights, remembered, about)
    for older in sorted((run / FOLDER).glob("step_*"))[:-_KEPT]:
        shutil.rmtree(older)
    return folder


def restore_joint_state(trainer: JointTrainer, folder: Path) -> dict[str, Any]:
    """Put `trainer`, fresh from the model that the run began from, where the state was taken.

    Returns what the loop had noted. Raises CheckpointError for a state that is damaged, or of another recipe or model;
    the trainer must then not be used.
    """
    about = read_about(folder)
    try:
        check_belongs(
            folder,
            {"recipe": about["recipe"], "model": about["model"]},
            {"recipe": fingerprint(trainer.config), "model": trainer.began_from},
        )
        step, loop, read = int(about["step"]), dict(about["loop"]), int(about["positions_read"])
        weights, remembered = read_tensors(folder)
        trainer.go_to(step)
        trainer.positions_read = read
        for prefix, part in trainer.parts.items():
            part.load_state_dict(_below(weights, prefix + "."))
        averages = _below(weights, _AVERAGE)
        if averages.keys() != trainer.averages.keys():
            raise KeyError("its averages are of other weights")
        trainer.averages = averages
        for name, optimiser in trainer.optimisers.items():
            optimiser.restore(_below(remembered, name + "."))
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as problem:
        first = str(problem).splitlines()[0][:160]
        raise CheckpointError(
            f"a saved state must be whole, {folder} is not ({first}); use another one"
        ) from None
    return loop


def _below(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
