"""A model folder in Hugging Face's format on this machine: weights in safetensors, configuration, tokenizer.

Nothing is fetched, no code out of the folder is run and no pickle is read; weights that are absent are an error, where
the library would make random ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from megacontext.errors import CheckpointError
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.models.huggingface.library import transformers

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_CONFIGURATION = "config.json"


def is_model_folder(folder: Path) -> bool:
    """Whether that folder looks like one."""
    return (folder / _CONFIGURATION).is_file()


def load_model_folder(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[HuggingFaceBase, Any]:
    """The base model and the tokenizer, which is transformers'.

    Raises CheckpointError for a folder that is absent, damaged or holds another kind of model, and
    BackendUnavailableError without the extra `hf`.
    """
    if not is_model_folder(folder):
        raise CheckpointError(
            f"a model folder must hold {_CONFIGURATION}, {folder} does not; give the folder of a model in Hugging "
            "Face's format"
        )
    library = transformers()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, **_LOCAL)
        model, found = library.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise CheckpointError(
            f"a model folder must hold a causal language model in safetensors with its tokenizer, {folder} cannot be "
            f"read ({type(problem).__name__}: {reason}); restore it"
        ) from None
    for what in ("missing_keys", "mismatched_keys"):
        if found[what]:
            first = min(map(str, found[what]))
            raise CheckpointError(
                f"a model folder must hold all weights of its configuration, {folder} does not "
                f"({len(found[what])} {what.removesuffix('_keys')}, {first} among them); restore it"
            )
    # Tokens added afterwards may lie beyond the rows: people add padding to a tokenizer and leave the model alone.
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"a vocabulary must fit the model's embeddings, in {folder} it has {tokenizer.vocab_size:,} ids for "
            f"{rows:,} rows; restore the tokenizer's files"
        )
    return HuggingFaceBase(model), tokenizer
