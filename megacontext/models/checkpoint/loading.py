"""A checkpoint of nanochat's, of any dialect, becomes a GPT; or one sentence, and nothing.

Everything is read and held against the shape that `meta` promises before a model is made. Weights are read with
`torch.load(weights_only=True)`, which runs nothing that a file holds. They are held in float32, whatever the type on
disk, which is remembered for the saver.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megacontext.config import from_mapping
from megacontext.errors import CheckpointError, ConfigError
from megacontext.models.checkpoint.detection import detect_dialect
from megacontext.models.checkpoint.layout import ATTENTION, last_step, meta_file, model_file, steps
from megacontext.models.checkpoint.upgrades import upgrade
from megacontext.models.gpt import GPT, GPTConfig

_EXACT_IN_FLOAT32 = (torch.float32, torch.bfloat16, torch.float16)
_SHOWN = 4
"""Names that a message lists before it goes over to counting."""


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A model and where it came from. `save_checkpoint(folder, step, model, meta, dtypes=dtypes)` writes it again."""

    model: GPT
    meta: dict[str, Any]
    """All that nanochat had written about it."""
    step: int
    dialect: str
    dtypes: dict[str, torch.dtype]
    """Type of each tensor on disk, by its name in the model."""
    upgrades: tuple[str, ...]
    """Steps that turned old names into today's."""


def load_checkpoint(
    folder: Path, step: int | None = None, *, dialect: str | None = None, device: str | torch.device = "cpu"
) -> LoadedCheckpoint:
    """Read the checkpoint of `step` in `folder`; None takes the highest there is.

    The dialect is told by the keys; `dialect` decides where they cannot. Raises CheckpointError for anything but a
    whole checkpoint that fits its meta, UnknownVariantError for a dialect that there is not.
    """
    folder = Path(folder)
    step = last_step(folder) if step is None else step
    path = model_file(folder, step)
    if not path.is_file():
        there = ", ".join(map(str, steps(folder))) or "none"
        raise CheckpointError(
            f"a step must have its weights in {folder}, {path.name} is not there; steps there are: {there}"
        )
    meta = _read_meta(meta_file(folder, step))
    if meta.get(ATTENTION, "full") != "full":
        raise CheckpointError(
            f"a checkpoint in nanochat's layout is read with every layer seeing all, {folder} was trained with "
            f"attention = {meta[ATTENTION]!r} and would read otherwise than it learnt; take the run's own states "
            '(--resume), or train one with attention = "full"'
        )
    state, taken = upgrade(_read_weights(path))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    vocab_size = meta["model_config"].get("vocab_size", 0)
    spoken = detect_dialect(shapes, vocab_size if isinstance(vocab_size, int) else 0, dialect)
    config = _config(meta["model_config"], spoken.name, meta_file(folder, step))
    _check_size(shapes, config, path)
    with torch.device("meta"):
        model = GPT(config)
    _check_shapes(shapes, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, path)
    dtypes = {name: tensor.dtype for name, tensor in state.items()}
    # Copies: tensors that share memory in the file must not be tied in the model.
    own = {
        name: state.pop(name).to(device, torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name in list(state)
    }
    model.load_state_dict(own, strict=True, assign=True)
    return LoadedCheckpoint(
        model=model.eval(), meta=meta, step=step, dialect=spoken.name, dtypes=dtypes, upgrades=tuple(taken)
    )


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"weights need the meta that describes them, {path} is missing: saving was cut off, or the file was lost; "
            "restore it or give another step"
        ) from None
    except OSError as problem:
        raise CheckpointError(f"meta must be readable, {path} is not ({problem.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"meta must be JSON, {path} is not; it was cut off or is foreign, restore it"
        ) from None
    if not isinstance(meta, dict) or not isinstance(meta.get("model_config"), dict):
        raise CheckpointError(f"meta must hold a model_config, {path} does not; it is foreign, restore it")
    return meta


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load passes over the checksums that torch.save writes.
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        # Foreign bytes can fail anywhere in the two readers, with any exception; all of them mean the same.
        raise CheckpointError(
            f"weights must be a whole file of torch.save with tensors alone, {path} is not "
            f"({type(problem).__name__}); it was cut off or is foreign, copy it again"
        ) from None
    if damaged:
        raise CheckpointError(
            f"weights must match their checksums, {path} does not in {damaged}; it is damaged, copy it again"
        )
    if not isinstance(state, dict) or not state or not all(_is_weight(*item) for item in state.items()):
        raise CheckpointError(
            f"weights must be dense tensors of float32, bfloat16 or float16 by name, {path} holds something else; "
            "it is no checkpoint of a model"
        )
    return dict(state)


def _is_weight(name: object, tensor: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.dtype in _EXACT_IN_FLOAT32
    )


def _config(given: dict[str, Any], dialect: str, path: Path) -> GPTConfig:
    """The shape that meta gives. Before windows came there was no pattern, which means that every layer sees all."""
    needed = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
    missing = [name for name in needed if name not in given]
    if missing:
        raise CheckpointError(
            f"model_config must give {', '.join(needed)}, {path} lacks {', '.join(missing)}; restore it"
        )
    unknown = sorted(set(given) - {*needed, "window_pattern"})
    if unknown:
        raise CheckpointError(
            f"model_config must be one of nanochat's, {path} has {_listed(unknown)} besides; it is foreign"
        )
    shape = {"window_pattern": "L", **given}
    if isinstance(shape["window_pattern"], str):
        shape["window_pattern"] = shape["window_pattern"].upper()
    try:
        return from_mapping(GPTConfig, {"dialect": dialect, **shape}, where=str(path))
    except ConfigError as problem:
        raise CheckpointError(f"a checkpoint's model_config must be a shape that can be: {problem}") from None


def _check_size(found: dict[str, tuple[int, ...]], config: GPTConfig, path: Path) -> None:
    """Depth and width alone, before a model is laid out that a damaged number would make endless."""
    layers = {key.split(".")[2] for key in found if key.startswith("transformer.h.")}
    if len(layers) != config.n_layer:
        raise CheckpointError(
            f"weights must have the layers that model_config gives, {config.n_layer:,}, got {len(layers):,} in {path}; "
            "the meta belongs to another model"
        )
    table = "transformer.wte.weight"
    if table in found:
        _check_shapes({table: found[table]}, {table: (config.vocab_rows, config.n_embd)}, path)


def _check_shapes(found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], path: Path) -> None:
    unknown, missing = sorted(found.keys() - wanted.keys()), sorted(wanted.keys() - found.keys())
    if unknown or missing:
        parts = [
            f"{word} {_listed(names)}" for word, names in (("has also", unknown), ("lacks", missing)) if names
        ]
        raise CheckpointError(
            f"weights must have the keys of their dialect and no others, {path} {' and '.join(parts)}; "
            "it is foreign, or belongs to another meta"
        )
    wrong = [name for name in wanted if found[name] != wanted[name]]
    if wrong:
        name = wrong[0]
        more = f" ({len(wrong)} such tensors)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"weights must have the shapes that model_config gives, {name} must be {wanted[name]}, got {found[name]} "
            f"in {path}{more}; the meta belongs to another model"
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
