"""A frozen decoder with all that it needs to read a memory, and the folder that this is kept in.

    reader.safetensors   AddressNet and LensNet, float16, names prefixed address. lens.
    reader.json          format, decoder, configuration of the parts, fingerprints, checksum of the weights
    gists/               the pooled gists that it reads, as `pooled_gists` keeps them

AddressNet looks at the decoder's own input embeddings, so it knows words that its training never met. LensNet goes by
addresses alone: the gists of such a memory are made where they are read, and nothing may need them all.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from megacontext.config import data_root, from_mapping, to_mapping
from megacontext.errors import CheckpointError, ConfigError
from megacontext.gistnet.address import AddressNet, AddressNetConfig
from megacontext.gistnet.pooled import PooledCache
from megacontext.lensnet.lens import LensNet, LensNetConfig
from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.models.positions import PositionPolicy
from megacontext.runtime.bases import Precision
from megacontext.runtime.bundle import Bundle, model_folder, weights_checksum
from megacontext.runtime.chat import TemplateChat
from megacontext.runtime.frozen.vocabulary import FrozenVocabulary
from megacontext.runtime.pooled_gists import (
    FrozenDecoder,
    load_pooled,
    open_decoder,
    pooled_folder,
    write_described,
)
from megacontext.runtime.reading import Frame

_FORMAT = 1
_WEIGHTS, _DESCRIPTION = "reader.safetensors", "reader.json"
_ASKING = "\n"
"""Between a context and a question, which itself begins with the end of a line (`tasks.facts.as_prompt`)."""
_ANSWER, _WISH = "\nAnswer:", "\nAnswer in a few words."
"""How such a question ends, and what a model that chats is told instead: the former it takes for part of it."""


@dataclass(frozen=True, kw_only=True)
class FrozenReaderConfig:
    """What a frozen decoder reads a memory with."""

    decoder: str = "smollm2"
    """`smollm2`, or the folder of a decoder in Hugging Face's format."""
    sink: str = "<|endoftext|>"
    """The token that stands before everything."""
    block_size: int = 32
    segment_blocks: int = 32
    """Blocks that the decoder reads together where their gists are made: 32 are what an opened gist of the second level
    shows, so one place of a context costs one reading."""
    levels: int = 0
    """Highest level of gists that is read, if they are learnt so far; 0: tokens alone, which small models answer best
    from (obsidian/architecture/Reading with a frozen decoder.md). A gist of the second level costs a reading of 1,024
    tokens, and an opened one of the third shows 32 of them."""
    gists: str = "smollm2-pooled"
    """Pooled gists: a folder in data/, or the path of one."""
    positions: PositionPolicy = "context"
    address: AddressNetConfig = field(default_factory=AddressNetConfig)
    lens: LensNetConfig = field(default_factory=LensNetConfig)

    def __post_init__(self) -> None:
        if self.block_size < 2 or self.segment_blocks < 1 or self.levels < 0:
            raise ConfigError(
                "a frozen reader needs block_size >= 2, segment_blocks >= 1 and levels >= 0, got "
                f"{self.block_size}, {self.segment_blocks} and {self.levels}"
            )


class FrozenReader:
    """Decoder, vocabulary, pooled gists, AddressNet and LensNet, ready to use together."""

    def __init__(self, config: FrozenReaderConfig, decoder: FrozenDecoder, gists: PooledCache):
        if gists.block_size != config.block_size:
            raise ConfigError(
                f"pooled gists must be of blocks of {config.block_size} tokens, got {gists.block_size}; use others"
            )
        self.config, self.decoder, self.gists = config, decoder, gists
        self.tokenizer: FrozenVocabulary = decoder.vocabulary
        self.base: HuggingFaceBase = decoder.base
        table = self.base.embed(torch.arange(self.base.vocab_size, device=self.base.device))
        self.address = AddressNet(
            config.address,
            vocab_size=self.base.vocab_size,
            block_size=config.block_size,
            table=table.detach().float().cpu(),
        )
        self.lens = LensNet(config.lens, gist_width=0, address_width=config.address.address_width)
        self.frame = _frame(decoder)

    @property
    def bytes_per_position(self) -> int:
        """Keys and values of one position in all layers."""
        layers, heads, width = self.base.entry_shape
        return 2 * layers * heads * width * self.base.embed(torch.zeros(1, dtype=torch.long)).element_size()

    def parts(self) -> list[tuple[str, nn.Module]]:
        """The networks that are trained for it, with the prefix of their weights."""
        return [("address", self.address), ("lens", self.lens)]

    def fingerprint(self, *names: str) -> str:
        """16 hex digits over the weights of the named parts, or of all, and over the decoder."""
        digest = hashlib.blake2b(self.decoder.fingerprint.encode(), digest_size=8)
        for prefix, part in [*self.parts(), ("gists", self.gists)]:
            if not names or prefix in names:
                for name, tensor in sorted(part.state_dict().items()):
                    digest.update(f"{prefix}.{name}{tuple(tensor.shape)}".encode())
                    digest.update(tensor.detach().to(torch.float32).cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, **told: Any) -> None:
        """Write what was trained and what describes it. `told` is kept beside it."""
        weights = {
            f"{prefix}.{name}": tensor.detach().half().cpu().contiguous()
            for prefix, part in self.parts()
            for name, tensor in part.state_dict().items()
        }
        description = {
            "format": _FORMAT,
            "config": to_mapping(self.config),
            "decoder_fingerprint": self.decoder.fingerprint,
            **told,
        }
        write_described(folder / _WEIGHTS, folder / _DESCRIPTION, weights, description)

    def round_to_half(self) -> None:
        """Make the trained parts what `save` would write of them, and fit for use."""
        for _, part in self.parts():
            for weight in part.parameters():
                weight.data = weight.data.half().float()
            part.eval()

    def _take(self, weights: dict[str, torch.Tensor]) -> None:
        for prefix, part in self.parts():
            start = prefix + "."
            part.load_state_dict(
                {name.removeprefix(start): one for name, one in weights.items() if name.startswith(start)}
            )
            part.eval()


def new_reader(config: FrozenReaderConfig, device: str, precision: Precision | None) -> FrozenReader:
    """A reader whose own nets are untrained. Raises what `open_decoder` and `load_pooled` raise."""
    decoder = open_decoder(config.decoder, device, precision, config.sink)
    gists, _ = load_pooled(pooled_folder(config.gists), decoder)
    if not isinstance(gists, PooledCache):
        raise ConfigError(f"a reader needs pooled gists, {config.gists} is a constant prefix; name others")
    return FrozenReader(config, decoder, gists)


def is_reader(folder: Path) -> bool:
    """Whether that folder holds what `FrozenReader.save` writes."""
    return (folder / _DESCRIPTION).is_file()


def load_reader(folder: Path, device: str = "cpu", precision: Precision | None = None) -> FrozenReader:
    """What `save` wrote, with its decoder and gists.

    Raises CheckpointError for a folder that is missing, damaged, newer, or of another decoder; BackendUnavailableError
    where the decoder's package is missing.
    """
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        weights = {name: one.float() for name, one in load_file(folder / _WEIGHTS).items()}
        checksum = weights_checksum(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as problem:
        raise CheckpointError(
            f"a frozen reader is kept as {_DESCRIPTION} and {_WEIGHTS}, {folder} holds none that can be read "
            f"({problem}); check the path or train it with `megacontext train smollm2-reader`"
        ) from None
    if description.get("format") != _FORMAT or description.get("weights_blake2b") != checksum:
        raise CheckpointError(
            f"a frozen reader must be whole and of format {_FORMAT}, that in {folder} is not; train it again"
        )
    config = from_mapping(FrozenReaderConfig, description["config"], where=str(folder))
    reader = new_reader(config, device, precision)
    if reader.decoder.fingerprint != description["decoder_fingerprint"]:
        raise CheckpointError(
            f"a reader reads with the decoder that it was trained for, {description['decoder_fingerprint']}, got one "
            f"with fingerprint {reader.decoder.fingerprint}; open that one"
        )
    reader._take(weights)
    return reader


def open_parts(name_or_path: str, levels: int | None = None) -> Bundle | FrozenReader:
    """A trained bundle, or a frozen decoder's reader: by the name of what ships, or the path of a folder.

    `levels` of gists are read by the latter; None: as many as it says itself. Raises what `Bundle.load` and
    `load_reader` raise, ConfigError for `levels` of a bundle, which reads all.
    """
    folder = reader_folder(name_or_path)
    if is_reader(folder):
        reader = load_reader(folder)
        if levels is not None:
            reader.config = replace(reader.config, levels=levels)
        return reader
    if levels is not None:
        raise ConfigError(
            f"levels are chosen for a frozen decoder, {name_or_path} is a bundle; leave them out"
        )
    return Bundle.load(model_folder(name_or_path))


def reader_folder(name_or_path: str) -> Path:
    """The folder of a reader that ships, or the path itself."""
    shipped = data_root() / name_or_path
    return shipped if is_reader(shipped) else Path(name_or_path)


def _frame(decoder: FrozenDecoder) -> Frame:
    """The decoder's own turns around a context and a question, behind its sink."""
    ends = decoder.base.model.generation_config.eos_token_id
    chat = TemplateChat(decoder.tokenizer, ends if isinstance(ends, list) else [] if ends is None else [ends])
    opening, closing = chat.around_user()
    encode = decoder.vocabulary.encode
    if not closing:
        return Frame(
            np.array([decoder.sink_id], dtype=np.int32),
            encode(_ASKING),
            stops=chat.stop_ids | {decoder.sink_id},
        )
    return Frame(
        np.array([decoder.sink_id, *opening], dtype=np.int32),
        encode(_ASKING),
        np.concatenate([encode(_WISH), np.array(closing, dtype=np.int32)]),
        encode(_ANSWER),
        stops=chat.stop_ids | {decoder.sink_id},
    )
