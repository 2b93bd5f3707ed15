"""Which base model a name stands for, with the chat format that it speaks.

A name is one of the registry, or the path of a folder: of a model in Hugging Face's format, or of nanochat's
checkpoints. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from megacontext.errors import CheckpointError, ConfigError
from megacontext.models.checkpoint import (
    base_dir,
    check_vocabulary,
    checkpoint_folder,
    load_checkpoint,
    load_tokenizer,
)
from megacontext.models.devices import find_device
from megacontext.models.gpt import GPT
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.models.huggingface.folder import is_model_folder, load_model_folder
from megacontext.models.huggingface.smollm2 import load_smollm2
from megacontext.registry import Registry
from megacontext.runtime.chat import ChatFormat, PlainText, SpecialTokenChat, TemplateChat

Source = Literal["base", "mid", "sft", "rl"]
Precision = Literal["float32", "bfloat16"]
_TOKENIZER = "tokenizer"


@dataclass(frozen=True, kw_only=True)
class CheckpointChoice:
    """Which of nanochat's checkpoints, in nanochat's words. None leaves it to nanochat's defaults."""

    source: Source | None = None
    """Phase of training; None: sft. A `base` model goes on with a text, the others chat."""
    model_tag: str | None = None
    """Folder of the model; None: the deepest."""
    step: int | None = None
    """None: the last."""
    dialect: str | None = None
    """Of the code that wrote the checkpoint, where its keys cannot tell."""


@dataclass(frozen=True)
class ChatBase:
    """A base model that can be talked to."""

    name: str
    base: GPT | HuggingFaceBase
    form: ChatFormat


BASES: Registry[Callable[[CheckpointChoice], ChatBase]] = Registry("base")


def open_base(name: str, choice: CheckpointChoice) -> ChatBase:
    """The base model of that name, or in the folder of that path.

    Raises UnknownVariantError for what is neither, CheckpointError for a folder that holds no readable model,
    ConfigError for a choice among checkpoints where there are none, BackendUnavailableError where an optional package
    is missing.
    """
    folder = Path(name)
    if name not in BASES.names() and folder.is_dir():
        if is_model_folder(folder):
            _no_choice(choice, name)
            return _huggingface(name, *load_model_folder(folder))
        if any(folder.glob("model_*.pt")):
            return _nanochat(name, folder, choice, base=choice.source == "base")
        raise CheckpointError(
            f"a base model's folder must hold config.json (Hugging Face's format) or model_<step>.pt (nanochat's), "
            f"{folder} holds neither; check the path"
        )
    if name not in BASES.names() and folder.name != name:
        raise CheckpointError(
            f"a base model is one of {', '.join(BASES.names())} or the path of a folder, {name} is no folder; "
            "check the path"
        )
    return BASES.get(name)(choice)


def place(base: GPT | HuggingFaceBase, device: str, precision: Precision) -> None:
    """Move a base model, in place. Raises as `find_device` does."""
    base.to(find_device(device), torch.float32 if precision == "float32" else torch.bfloat16)


@BASES.register("smollm2")
def _smollm2(choice: CheckpointChoice) -> ChatBase:
    _no_choice(choice, "smollm2")
    return _huggingface("smollm2", *load_smollm2())


@BASES.register("nanochat")
def _nanochat_by_tag(choice: CheckpointChoice) -> ChatBase:
    source = choice.source or "sft"
    try:
        folder = checkpoint_folder(base_dir(), source, choice.model_tag)
    except CheckpointError as problem:
        raise CheckpointError(f"{problem}, or choose another base model, e.g. smollm2") from None
    return _nanochat(f"{folder.parent.name}/{folder.name}", folder, choice, base=source == "base")


def _nanochat(name: str, folder: Path, choice: CheckpointChoice, *, base: bool) -> ChatBase:
    loaded = load_checkpoint(folder, choice.step, dialect=choice.dialect)
    tokenizer = load_tokenizer(_tokenizer_folder(folder))
    check_vocabulary(tokenizer, loaded.model.config)
    form = PlainText(tokenizer) if base else SpecialTokenChat(tokenizer)
    return ChatBase(f"{name}@{loaded.step}", loaded.model.eval(), form)


def _tokenizer_folder(folder: Path) -> Path:
    """nanochat keeps one vocabulary for all its models, beside the folders of the phases."""
    beside = folder.resolve().parent.parent / _TOKENIZER
    return beside if beside.is_dir() else base_dir() / _TOKENIZER


def _huggingface(name: str, base: HuggingFaceBase, tokenizer: Any) -> ChatBase:
    ends = base.model.generation_config.eos_token_id
    stop_ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return ChatBase(name, base, TemplateChat(tokenizer, stop_ids))


def _no_choice(choice: CheckpointChoice, name: str) -> None:
    if choice != CheckpointChoice():
        raise ConfigError(
            f"--source, --model-tag, --step and --dialect choose among nanochat's checkpoints, {name} is none of "
            "them; leave them out"
        )
