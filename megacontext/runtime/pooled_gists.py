"""A frozen decoder with the pooled gists that were trained for it, and the folder that these are kept in.

    pooled.safetensors   weights, float32
    pooled.json          format, kind, shapes, the decoder's fingerprint, checksum of the weights

Weights are read with safetensors alone. Gists of one decoder say nothing to another, so the fingerprint is checked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from megacontext.config import data_root, from_mapping, to_mapping
from megacontext.errors import CheckpointError, ConfigError
from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig
from megacontext.models.devices import find_device, quick_dtype
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.models.huggingface.folder import load_model_folder
from megacontext.models.huggingface.smollm2 import load_smollm2
from megacontext.runtime.bases import Precision
from megacontext.runtime.bundle import weights_checksum
from megacontext.runtime.frozen.vocabulary import FrozenVocabulary

_FORMAT = 1
_WEIGHTS, _DESCRIPTION = "pooled.safetensors", "pooled.json"


@dataclass(frozen=True)
class FrozenDecoder:
    """A decoder of transformers that reads entries of keys and values, and its vocabulary."""

    base: HuggingFaceBase
    sink_id: int
    """The token that stands before everything."""
    fingerprint: str
    """16 hex digits over its weights in float32."""
    vocabulary: FrozenVocabulary
    tokenizer: Any
    """The same, as transformers has it: with its chat template."""

    @property
    def dtype(self) -> str:
        """What it calculates in."""
        return str(self.base.embed(torch.zeros(1, dtype=torch.long, device=self.base.device)).dtype)

    def encode(self, text: str) -> np.ndarray:
        """Token ids, int32 (T,), without any special token."""
        return self.vocabulary.encode(text)


def open_decoder(name: str, device: str, precision: Precision | None, sink: str) -> FrozenDecoder:
    """`smollm2`, or the decoder in a folder of Hugging Face's format; `precision` None: what the device is quick in.

    Raises CheckpointError, BackendUnavailableError, ConfigError for a sink that is no token, ShapeError for a decoder
    that holds no entries.
    """
    base, tokenizer = load_smollm2() if name == "smollm2" else load_model_folder(Path(name))
    vocabulary = FrozenVocabulary(tokenizer)
    sink_id = vocabulary.special_id(sink)
    if sink_id is None:
        raise ConfigError(f"sink must be one token of {name}'s vocabulary, got {sink!r}; name another")
    assert base.entry_shape
    fingerprint = _fingerprint(base)
    place = find_device(device)
    dtypes = {None: quick_dtype(place), "float32": torch.float32, "bfloat16": torch.bfloat16}
    base.to(place, dtypes[precision])
    return FrozenDecoder(base, sink_id, fingerprint, vocabulary, tokenizer)


def _fingerprint(base: HuggingFaceBase) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(base.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_pooled(folder: Path, net: PooledCache | ConstantPrefix, decoder: FrozenDecoder, **told: Any) -> None:
    """Write the weights and what describes them. `told` is kept beside them."""
    description: dict[str, Any] = {
        "format": _FORMAT,
        "kind": "constant" if isinstance(net, ConstantPrefix) else "pooled",
        "decoder_fingerprint": decoder.fingerprint,
        **told,
    }
    if isinstance(net, PooledCache):
        description |= {"block_size": net.block_size, "config": to_mapping(net.config)}
    weights = {name: one.detach().cpu().contiguous() for name, one in net.state_dict().items()}
    write_described(folder / _WEIGHTS, folder / _DESCRIPTION, weights, description)


def write_described(
    weights_path: Path, description_path: Path, weights: dict[str, torch.Tensor], description: dict[str, Any]
) -> None:
    """Write weights, and last, by renaming, what describes them, with their checksum."""
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    description_path.unlink(missing_ok=True)
    save_file(weights, weights_path)
    whole = description | {"weights_blake2b": weights_checksum(weights_path)}
    aside = description_path.with_name(description_path.name + ".tmp")
    aside.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    aside.replace(description_path)


def pooled_folder(name_or_path: str) -> Path:
    """The folder of gists that ship, or the path itself."""
    shipped = data_root() / name_or_path
    return shipped if (shipped / _DESCRIPTION).is_file() else Path(name_or_path)


def load_pooled(folder: Path, decoder: FrozenDecoder) -> tuple[PooledCache | ConstantPrefix, dict[str, Any]]:
    """What `save_pooled` wrote, on the decoder's device, with its description.

    Raises CheckpointError for a folder that is missing, damaged, newer, or of another decoder.
    """
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        weights = load_file(folder / _WEIGHTS)
        checksum = weights_checksum(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as problem:
        raise CheckpointError(
            f"pooled gists are kept as {_DESCRIPTION} and {_WEIGHTS}, {folder} holds none that can be read "
            f"({problem}); check the path or train them"
        ) from None
    if description.get("format") != _FORMAT or description.get("weights_blake2b") != checksum:
        raise CheckpointError(
            f"pooled gists must be whole and of format {_FORMAT}, those in {folder} are not; train them again"
        )
    if description["decoder_fingerprint"] != decoder.fingerprint:
        raise CheckpointError(
            f"pooled gists are read by the decoder that they were trained for, {description['decoder_fingerprint']}, "
            f"got one with fingerprint {decoder.fingerprint}; open that one"
        )
    net: nn.Module
    if description["kind"] == "constant":
        net = ConstantPrefix(weights["keys"], weights["values"])
    else:
        config = from_mapping(PooledCacheConfig, description["config"], where=str(folder))
        net = PooledCache(
            config, entry_shape=decoder.base.entry_shape, block_size=int(description["block_size"])
        )
        net.load_state_dict(weights)
    return net.to(decoder.base.device).eval(), description
