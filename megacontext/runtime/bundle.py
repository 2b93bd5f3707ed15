"""A bundle: tokenizer, base model, GistNet, AddressNet and LensNet that were trained together, in one folder.

    model.safetensors   all weights, float16, names prefixed base. gistnet. address. lens., and gist_tokens. where
                        there are some
    model.json          format, the configuration of each part, checksum of the weights
    tokenizer.json      the vocabulary

Weights are read with safetensors alone, never unpickled. What the parts share (block size, widths, vocabulary) is
derived here once, so that no part can disagree with another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from megacontext.config import data_root, from_mapping, to_mapping
from megacontext.errors import CheckpointError, ConfigError
from megacontext.gistnet.address import AddressNet, AddressNetConfig
from megacontext.gistnet.gist import GistNet, GistNetConfig
from megacontext.lensnet.lens import LensNet, LensNetConfig
from megacontext.models.entries import entry_width
from megacontext.models.gist_tokens import GistTokens, GistTokensConfig
from megacontext.models.gpt import GPT, GPTConfig
from megacontext.models.positions import PositionPolicy
from megacontext.tokenizer import Tokenizer

_FORMAT = 1
_WEIGHTS, _DESCRIPTION, _VOCABULARY = "model.safetensors", "model.json", "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """Shapes of all parts."""

    block_size: int = 32
    positions: PositionPolicy = "context"
    """What the base model was trained to read as an entry's position."""
    gists: Literal["embedding", "tokens"] = "embedding"
    """What a tree stores as gists: GistNet's vectors in the input space, or the keys and values of gist tokens."""
    model: GPTConfig = field(default_factory=GPTConfig)
    gistnet: GistNetConfig = field(default_factory=GistNetConfig)
    gist_tokens: GistTokensConfig = field(default_factory=GistTokensConfig)
    """Read only where `gists` is tokens."""
    address: AddressNetConfig = field(default_factory=AddressNetConfig)
    lens: LensNetConfig = field(default_factory=LensNetConfig)

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise ConfigError(f"block_size must be at least 2, got {self.block_size}; the usual one is 32")
        if self.model.n_embd % self.gistnet.heads:
            raise ConfigError(
                f"model.n_embd must be a multiple of gistnet.heads, got {self.model.n_embd} and {self.gistnet.heads}; "
                "change one"
            )


class Bundle:
    """The trained parts, ready to use together."""

    def __init__(self, config: BundleConfig, tokenizer: Tokenizer):
        if tokenizer.vocab_size != config.model.vocab_size:
            raise CheckpointError(
                f"the vocabulary must have model.vocab_size = {config.model.vocab_size} ids, "
                f"got {tokenizer.vocab_size}; use the tokenizer that the model was trained with"
            )
        width = config.model.n_embd
        self.config = config
        self.tokenizer = tokenizer
        self.base = GPT(config.model)
        self.gistnet = GistNet(config.gistnet, width=width, block_size=config.block_size)
        self.address = AddressNet(
            config.address, vocab_size=config.model.vocab_size, block_size=config.block_size
        )
        self.gist_tokens: GistTokens | None = None
        if config.gists == "tokens":
            self.gist_tokens = GistTokens(config.gist_tokens, width=width, block_size=config.block_size)
        self.lens = LensNet(
            config.lens, gist_width=self.gist_width, address_width=config.address.address_width
        )

    @property
    def gist_width(self) -> int:
        """Numbers of a gist as a tree stores it."""
        return self.config.model.n_embd if self.gist_tokens is None else entry_width(self.base)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The networks with the prefix of their weights."""
        yield from (("base", self.base), ("gistnet", self.gistnet))
        if self.gist_tokens is not None:
            yield "gist_tokens", self.gist_tokens
        yield from (("address", self.address), ("lens", self.lens))

    def fingerprint(self, *names: str) -> str:
        """16 hex digits over the weights of the named parts, or of all; equal weights, equal fingerprint."""
        digest = hashlib.blake2b(digest_size=8)
        for prefix, part in self.parts():
            if not names or prefix in names:
                for name, tensor in sorted(part.state_dict().items()):
                    digest.update(f"{prefix}.{name}{tuple(tensor.shape)}".encode())
                    digest.update(tensor.detach().to(torch.float32).cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def embedding_fingerprint(self) -> str:
        """The same over the input embeddings alone: all that a stored gist depends on of the base model."""
        table = self.base.transformer["wte"].weight
        return hashlib.blake2b(table.detach().cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the bundle. The description goes last and by renaming, so a half-written bundle never loads.

        Weights are rounded to float16 in the files AND here, so that what was saved is what goes on being used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _DESCRIPTION).unlink(missing_ok=True)
        weights = {}
        for prefix, part in self.parts():
            for name, tensor in part.state_dict().items():
                tensor.copy_(tensor.to(torch.float16))
                weights[f"{prefix}.{name}"] = tensor.to(torch.float16).contiguous()
        save_file(weights, folder / _WEIGHTS)
        self.tokenizer.save(folder / _VOCABULARY)
        description = {
            "format": _FORMAT,
            "config": to_mapping(self.config),
            "weights_blake2b": weights_checksum(folder / _WEIGHTS),
            "fingerprint": self.fingerprint(),
            "vocabulary": self.tokenizer.fingerprint,
        }
        aside = folder / (_DESCRIPTION + ".tmp")
        aside.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        os.replace(aside, folder / _DESCRIPTION)

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read a bundle. Raises CheckpointError when it is absent, damaged or does not fit its description."""
        try:
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            version, config_mapping = description["format"], description["config"]
            wanted, vocabulary = description["weights_blake2b"], description["vocabulary"]
        except OSError as problem:
            raise CheckpointError(
                f"a model folder must hold {_DESCRIPTION}, {folder} does not ({problem.strerror}); "
                "make one with `megacontext train tiny`"
            ) from None
        except (ValueError, KeyError, TypeError) as problem:
            raise CheckpointError(
                f"{folder / _DESCRIPTION} must be the JSON description of a model, but is damaged ({problem}); "
                "restore it or train again with `megacontext train tiny`"
            ) from None
        if version != _FORMAT:
            raise CheckpointError(
                f"this version reads model format {_FORMAT}, {folder} has {version}; update MegaContext"
            )
        try:
            found = weights_checksum(folder / _WEIGHTS)
        except OSError as problem:
            raise CheckpointError(
                f"a model folder must hold {_WEIGHTS}, {folder} does not ({problem.strerror}); restore it"
            ) from None
        if found != wanted:
            raise CheckpointError(
                f"the weights in {folder / _WEIGHTS} must have the checksum {wanted}, got {found}; they are damaged or "
                "of another model: restore the file or train again with `megacontext train tiny`"
            )
        try:
            config = from_mapping(BundleConfig, config_mapping, where=_DESCRIPTION)
            tokenizer = Tokenizer.load(folder / _VOCABULARY)
        except ConfigError as problem:
            raise CheckpointError(f"the model in {folder} must be whole, but {problem}") from None
        if tokenizer.fingerprint != vocabulary:
            raise CheckpointError(
                f"{folder / _VOCABULARY} must be the vocabulary {vocabulary} that the model was trained "
                f"with, got {tokenizer.fingerprint}; restore it"
            )
        bundle = cls(config, tokenizer)
        try:
            weights = load_file(folder / _WEIGHTS)
        except SafetensorError as problem:
            raise CheckpointError(
                f"{folder / _WEIGHTS} must be a safetensors file ({problem}); restore it"
            ) from None
        for prefix, part in bundle.parts():
            own = {
                name.removeprefix(prefix + "."): tensor.float()
                for name, tensor in weights.items()
                if name.startswith(prefix + ".")
            }
            try:
                part.load_state_dict(own)
            except RuntimeError as problem:
                first = next(line.strip() for line in str(problem).splitlines()[1:])[:160]
                raise CheckpointError(
                    f"the weights of {prefix} must fit {_DESCRIPTION}, those in {folder} do not ({first}); "
                    "restore the file that was changed"
                ) from None
            part.eval()
        return bundle


def weights_checksum(path: Path) -> str:
    """Of a file of weights, as the description beside it names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def model_folder(name_or_path: str) -> Path:
    """The folder of a shipped model, or the path itself."""
    shipped = data_root() / name_or_path
    return shipped if (shipped / "model.json").is_file() else Path(name_or_path)
