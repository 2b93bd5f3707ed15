"""AddressNet and LensNet for a frozen decoder: what it needs to find its way in a memory.

The decoder itself is never run here. AddressNet learns over its input embeddings to find the block that a question, or
a span of the block, is about; LensNet learns over such addresses which entries of a context to open. Both are trained
as the tiny model's are, on planted facts and plain text.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from megacontext.corpus.documents import Document, load_documents
from megacontext.errors import ConfigError
from megacontext.runtime.bases import Precision
from megacontext.runtime.frozen.reader import FrozenReader, FrozenReaderConfig, new_reader
from megacontext.telemetry import Telemetry
from megacontext.train.address import AddressTrainConfig, train_address
from megacontext.train.contexts import ContextSampler
from megacontext.train.lens import LensTrainConfig, train_lens


@dataclass(frozen=True, kw_only=True)
class ReaderTrainConfig:
    """A recipe of the trainer `reader`."""

    trainer: Literal["reader"] = "reader"
    seed: int = 0
    device: str = "cpu"
    precision: Precision | None = None
    """Of the decoder, whose embeddings alone are looked at; None: what the device is quick in."""
    reader: FrozenReaderConfig = field(default_factory=FrozenReaderConfig)
    documents: tuple[str, ...] = ("emma", "mansfield-park", "persuasion", "sense-and-sensibility")
    """What is trained on: see `corpus.documents`."""
    address_training: AddressTrainConfig = field(default_factory=AddressTrainConfig)
    lens_training: LensTrainConfig = field(default_factory=LensTrainConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; 0 is the usual one")
        if not self.documents:
            raise ConfigError("training needs at least one document; name it in documents")


@dataclass(frozen=True)
class ReaderData:
    """Decoder and texts, read before anything is written."""

    reader: FrozenReader
    documents: list[Document]


def load_reader_data(config: ReaderTrainConfig) -> ReaderData:
    """Open the decoder and read all texts. Raises ConfigError, CheckpointError, BackendUnavailableError."""
    torch.manual_seed(config.seed)
    reader = new_reader(config.reader, config.device, config.precision)
    return ReaderData(reader, load_documents(config.documents, reader.tokenizer.encode))


def train_reader(config: ReaderTrainConfig, data: ReaderData, telemetry: Telemetry) -> dict[str, Any]:
    """Train AddressNet, then LensNet on its addresses as they are stored. Same seed, same machine, same weights."""
    began, reader = time.monotonic(), data.reader
    contexts = ContextSampler(
        [document.ids for document in data.documents], reader.tokenizer, config.reader.block_size
    )
    train_address(reader, contexts, config.address_training, seed=config.seed + 1, telemetry=telemetry)
    reader.round_to_half()
    train_lens(reader, contexts, config.lens_training, seed=config.seed + 2, telemetry=telemetry)
    reader.round_to_half()
    return {
        "parameters": sum(one.numel() for _, part in reader.parts() for one in part.parameters()),
        "training_s": time.monotonic() - began,
        "fingerprint": reader.fingerprint(),
    }
