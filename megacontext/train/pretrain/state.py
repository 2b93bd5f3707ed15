"""Saved states of a run, from which it goes on as if it had never stopped.

    checkpoints/step_000100/model.safetensors       weights, names prefixed base. and gistnet.
                            optimisers.safetensors  all that the optimisers remember
                            state.json              step, place in the corpus, what belongs together; written last

A state is written under another name and renamed whole. It is nothing but numbers: reading one runs no code.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

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
    folder = run / FOLDER / _name(trainer.step)
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    weights = {
        f"{prefix}.{name}": tensor.detach().cpu().contiguous()
        for prefix, network in trainer.networks()
        for name, tensor in network.state_dict().items()
    }
    save_file(weights, aside / _WEIGHTS)
    remembered = {
        name: tensor.detach().cpu().contiguous() for name, tensor in trainer.optimisers.state().items()
    }
    save_file(remembered, aside / _OPTIMISERS)
    write_json(
        aside / _STATE,
        {
            "format": FORMAT,
            "step": trainer.step,
            "place": asdict(trainer.reader.place),
            "recipe": fingerprint(trainer.config),
            "vocabulary": trainer.tokenizer.fingerprint,
            "tokens_digest": trainer.tokens_digest,
            "loop": loop,
        },
    )
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


def restore_state(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Put `trainer` where the state was taken; returns what the loop had noted.

    Raises CheckpointError for a state that is damaged or of another recipe, vocabulary or version; the trainer must
    then not be used.
    """
    try:
        about = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        version, step, place = about["format"], int(about["step"]), Place(**about["place"])
        belongs = {"recipe": about["recipe"], "vocabulary": about["vocabulary"]}
        digest, loop = str(about["tokens_digest"]), dict(about["loop"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CheckpointError(
            f"a saved state must be whole, {folder} is not ({problem}); use another one"
        ) from None
    if version != FORMAT:
        raise CheckpointError(
            f"this version reads states of format {FORMAT}, {folder} has {version}; update MegaContext"
        )
    here = {"recipe": fingerprint(trainer.config), "vocabulary": trainer.tokenizer.fingerprint}
    for what, wanted in belongs.items():
        if here[what] != wanted:
            raise CheckpointError(
                f"a run goes on with the {what} that it began with, {folder} has {wanted}, got {here[what]}; "
                "give the same one, or begin a new run"
            )
    try:
        weights = load_file(folder / _WEIGHTS)
        for prefix, network in trainer.networks():
            own = {
                name.removeprefix(prefix + "."): t
                for name, t in weights.items()
                if name.startswith(prefix + ".")
            }
            network.load_state_dict(own)
        trainer.optimisers.restore(load_file(folder / _OPTIMISERS))
        trainer.go_to(step, place, digest)
    except (OSError, SafetensorError, RuntimeError, ConfigError) as problem:
        first = str(problem).splitlines()[0][:160]
        raise CheckpointError(
            f"a saved state must be whole, {folder} is not ({first}); use another one"
        ) from None
    return loop
