"""Where nanochat keeps things: folders by phase and model, files by step, and how a file is written whole.

    <base dir>/<phase's folder>/<tag>/model_000100.pt, meta_000100.json

Deliberately looks at names only, never into a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from megacontext.errors import CheckpointError

Phase = Literal["base", "mid", "sft", "rl"]
PHASE_FOLDERS: dict[str, str] = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
}

ATTENTION = "attention"
"""Key of the meta that says how our run attended; nanochat, whose layers see all, has none and reads none."""


def base_dir() -> Path:
    """The root of all that nanochat keeps: NANOCHAT_BASE_DIR, or ~/.cache/nanochat."""
    given = os.environ.get("NANOCHAT_BASE_DIR")
    return Path(given) if given else Path.home() / ".cache" / "nanochat"


def checkpoint_folder(base_dir: Path, phase: Phase = "base", tag: str | None = None) -> Path:
    """Folder of a model's checkpoints. Without a `tag`, that of the deepest model there, d<N> with the largest N.

    A folder that is named by its tag need not exist yet. Raises CheckpointError for an unknown phase, a tag that is no
    single name, or when there is nothing to choose from.
    """
    if phase not in PHASE_FOLDERS:
        raise CheckpointError(f"a phase is one of {', '.join(PHASE_FOLDERS)}, got {phase!r}; choose one")
    parent = Path(base_dir) / PHASE_FOLDERS[phase]
    if tag is not None:
        if not tag or tag in (".", "..") or "/" in tag or os.sep in tag:
            raise CheckpointError(
                f"a model tag is the name of one folder in {parent}, got {tag!r}; change it"
            )
        return parent / tag
    there = sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    depths = [int(name[1:]) for name in there if re.fullmatch(r"d\d+", name)]
    if not depths:
        raise CheckpointError(
            f"without a tag, the deepest model d<N> in {parent} is taken, there is none "
            f"(folders: {', '.join(there) or 'none'}); give a tag, or set NANOCHAT_BASE_DIR"
        )
    return parent / f"d{max(depths)}"


def model_file(folder: Path, step: int) -> Path:
    """The weights of a step."""
    return Path(folder) / f"model_{step:06d}.pt"


def meta_file(folder: Path, step: int) -> Path:
    """What is said about the weights of a step."""
    return Path(folder) / f"meta_{step:06d}.json"


def steps(folder: Path) -> list[int]:
    """Steps whose weights are in `folder`, ascending."""
    found = (re.fullmatch(r"model_(\d{6,})\.pt", path.name) for path in Path(folder).glob("model_*.pt"))
    return sorted(int(match[1]) for match in found if match)


def last_step(folder: Path) -> int:
    """The highest step in `folder`. Raises CheckpointError where there is none."""
    there = steps(folder)
    if not there:
        lacks = "does not" if Path(folder).is_dir() else "is no folder"
        raise CheckpointError(
            f"a checkpoint folder must hold model_<step>.pt, {folder} {lacks}; check the path"
        )
    return there[-1]


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file aside, and give it its name only when all of it is on disk.

    Raises CheckpointError when the disk refuses; what `path` held before still stands then.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with aside.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as problem:
        raise CheckpointError(
            f"a checkpoint needs a disk that takes it, {path} was refused ({problem.strerror}); "
            "make room or choose another folder"
        ) from None
