"""Saved states of a run, from which it goes on as if it had never stopped.

    checkpoints/step_000100/model.safetensors       weights, names prefixed base. and gistnet. or summaries.
                            optimisers.safetensors  all that the optimisers remember
                            state.json              step, place in the corpus, what belongs together; written last

A state is written under another name and renamed whole. It is nothing but numbers: reading one runs no code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megacontext.config import fingerprint
from megacontext.corpus.rows import Place
from megacontext.errors import CheckpointError, ConfigError
from megacontext.runtime.run import write_json
from megacontext.train.pretrain.trainer import Trainer

FORMAT = 1
FOLDER = "checkpoints"
_WEIGHTS, _OPTIMISERS, _STATE = "model.safetensors", "optimisers.safetensors", "state.json"


def save_state(trainer: Trainer, run: Path, **loop: Any) -> Path:
    """Write the state of `trainer` into the run's folder, with what the loop wants to know again. Returns its path."""
    weights = {
        f"{prefix}.{name}": tensor
        for prefix, network in trainer.networks()
        for name, tensor in network.state_dict().items()
    }
    about = {
        "place": asdict(trainer.reader.place),
        "recipe": fingerprint(trainer.config),
        "vocabulary": trainer.tokenizer.fingerprint,
        "tokens_digest": trainer.tokens_digest,
        "loop": loop,
    }
    return write_state(run, trainer.step, weights, trainer.optimisers.state(), about)


def write_state(
    run: Path,
    step: int,
    weights: Mapping[str, Tensor],
    remembered: Mapping[str, Tensor],
    about: Mapping[str, Any],
) -> Path:
    """A state after `step` steps in the run's folder, whole or not at all: weights, what the optimisers remember, and
    what else is to be known. Returns its path."""
    folder = run / FOLDER / _name(step)
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, tensors in ((_WEIGHTS, weights), (_OPTIMISERS, remembered)):
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, aside / name)
    write_json(aside / _STATE, {"format": FORMAT, "step": step, **about})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    return folder


def find_state(run: Path, step: int | None = None) -> Path:
    """The state of a run after `step` steps, or the one furthest on. Raises CheckpointError if there is none."""
    folders = {path.name: path for path in (run / FOLDER).glob("step_*") if (path / _STATE).is_file()}
    name = max(folders, default="") if step is None else _name(step)
    if name not in folders:
        raise CheckpointError(
            f"going on needs a saved state{'' if step is None else f' of step {step}'}, {run / FOLDER} holds "
            f"{', '.join(sorted(folders)) or 'none'}; give a run that saved one, or begin anew"
        )
    return folders[name]


def _name(step: int) -> str:
    return f"step_{step:06d}"


def read_about(folder: Path) -> dict[str, Any]:
    """What a state says of itself. Raises CheckpointError where it is damaged or of another version."""
    try:
        about = dict(json.loads((folder / _STATE).read_text(encoding="utf-8")))
        version = about["format"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CheckpointError(
            f"a saved state must be whole, {folder} is not ({problem}); use another one"
        ) from None
    if version != FORMAT:
        raise CheckpointError(
            f"this version reads states of format {FORMAT}, {folder} has {version}; update MegaContext"
        )
    return about


def check_belongs(folder: Path, belongs: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raises CheckpointError unless what a state belongs to is what is here."""
    for what, wanted in belongs.items():
        if here[what] != wanted:
            raise CheckpointError(
                f"a run goes on with the {what} that it began with, {folder} has {wanted}, got {here[what]}; "
                "give the same one, or begin a new run"
            )


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state's weights, and what its optimisers remember. Raises OSError or SafetensorError."""
    return load_file(folder / _WEIGHTS), load_file(folder / _OPTIMISERS)


def restore_state(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Put `trainer` where the state was taken; returns what the loop had noted.

    Raises CheckpointError for a state that is damaged or of another recipe, vocabulary or version; the trainer must
    then not be used.
    """
    about = read_about(folder)
    try:
        step, place = int(about["step"]), Place(**about["place"])
        belongs = {"recipe": about["recipe"], "vocabulary": about["vocabulary"]}
        digest, loop = str(about["tokens_digest"]), dict(about["loop"])
    except (ValueError, KeyError, TypeError) as problem:
        raise CheckpointError(
            f"a saved state must be whole, {folder} is not ({problem}); use another one"
        ) from None
    check_belongs(
        folder,
        belongs,
        {"recipe": fingerprint(trainer.config), "vocabulary": trainer.tokenizer.fingerprint},
    )
    try:
        weights, remembered = read_tensors(folder)
        for prefix, network in trainer.networks():
            own = {
                name.removeprefix(prefix + "."): t
                for name, t in weights.items()
                if name.startswith(prefix + ".")
            }
            network.load_state_dict(own)
        trainer.optimisers.restore(remembered)
        trainer.go_to(step, place, digest)
    except (OSError, SafetensorError, RuntimeError, ConfigError) as problem:
        first = str(problem).splitlines()[0][:160]
        raise CheckpointError(
            f"a saved state must be whole, {folder} is not ({first}); use another one"
        ) from None
    return loop
