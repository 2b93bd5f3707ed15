"""`megacontext nanochat tok_train`: train a vocabulary on the shards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from megacontext.cli.answers import answer
from megacontext.cli.nanochat.generations import GENERATIONS, GenerationName, shards_folder
from megacontext.corpus.shards import CorpusConfig, open_corpus
from megacontext.models.checkpoint import base_dir, save_tokenizer
from megacontext.train.pretrain.config import VocabularyConfig
from megacontext.train.pretrain.vocabulary import train_vocabulary


@dataclass(frozen=True)
class TokTrain:
    """Train a byte-pair vocabulary on the training shards, into tokenizer/ of the base directory."""

    max_chars: int | None = None
    """Characters to train on at most; default: 2e9, classic 1e10."""
    doc_cap: int = 10_000
    """Characters of one document at most."""
    vocab_size: int | None = None
    """Ids, specials included; default: 32,768, classic 65,536."""
    dialect: GenerationName = "current"
    """Whose defaults hold."""
    data: Path | None = None
    """Folder of parquet shards; default: nanochat's own."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        generation = GENERATIONS[self.dialect]
        corpus = open_corpus(CorpusConfig(shards=str(shards_folder(self.data, generation))))
        config = VocabularyConfig(
            max_chars=generation.max_chars if self.max_chars is None else self.max_chars, doc_cap=self.doc_cap
        )
        began = time.monotonic()
        tokenizer = train_vocabulary(config, self.vocab_size or generation.vocab_size, corpus.train)
        folder = base_dir() / "tokenizer"
        save_tokenizer(tokenizer, folder)
        told = {
            "tokenizer": str(folder),
            "vocab_size": tokenizer.vocab_size,
            "fingerprint": tokenizer.fingerprint,
            "train_s": time.monotonic() - began,
        }
        said = f"{tokenizer.vocab_size:,} ids in {folder}, learnt in {told['train_s']:.1f} s"
        answer(told, self.json, lambda: print(said))
        return 0
