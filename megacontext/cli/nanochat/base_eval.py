"""`megacontext nanochat base_eval`: bits per byte of a base model on both splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from megacontext.cli.answers import answer
from megacontext.cli.nanochat.generations import GENERATIONS, shards_folder
from megacontext.corpus.rows import validation_rows
from megacontext.corpus.shards import CorpusConfig, open_corpus
from megacontext.evals.bits_per_byte import text_loss
from megacontext.models.checkpoint import (
    base_dir,
    check_vocabulary,
    checkpoint_folder,
    load_checkpoint,
    load_tokenizer,
)
from megacontext.models.devices import find_device
from megacontext.progress import Progress


@dataclass(frozen=True)
class BaseEval:
    """Bits per byte of a base model in nanochat's layout, on training and validation shards."""

    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """Which model; default: the deepest."""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """Which step; default: the last."""
    device_batch_size: int = 32
    """Rows read at once."""
    split_tokens: int = 40 * 524_288
    """Targets of each split, at most."""
    device_type: str = ""
    """cuda, cpu or mps; empty = the best that is there."""
    dialect: str | None = None
    """Of the nanochat that wrote the checkpoint, where the checkpoint cannot tell."""
    data: Path | None = None
    """Folder of parquet shards; default: nanochat's own."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        found = load_checkpoint(
            checkpoint_folder(base_dir(), "base", self.model_tag), self.step, dialect=self.dialect
        )
        generation = GENERATIONS["classic" if found.dialect == "classic" else "current"]
        corpus = open_corpus(CorpusConfig(shards=str(shards_folder(self.data, generation))))
        tokenizer = load_tokenizer(base_dir() / "tokenizer")
        check_vocabulary(tokenizer, found.model.config)
        model = found.model.to(find_device(self.device_type)).eval()
        told: dict[str, float | int | str] = {"dialect": found.dialect, "step": found.step}
        splits = {"train": corpus.train[0], "val": corpus.validation}
        with Progress("splits", len(splits)) as progress:
            for split, shard in splits.items():
                rows = validation_rows(
                    shard,
                    tokenizer,
                    base_dir() / "megacontext_tokens",
                    row_tokens=model.config.sequence_len,
                    most_tokens=self.split_tokens,
                )
                loss = text_loss(model, rows, tokenizer.byte_lengths(), batch=self.device_batch_size)
                told[f"{split}_bpb"] = loss.rates().bits_per_byte
                progress.advance(split)
        said = f"step {found.step}: {told['train_bpb']:.4f} bits per byte in training, {told['val_bpb']:.4f} held out"
        answer(told, self.json, lambda: print(said))
        return 0
