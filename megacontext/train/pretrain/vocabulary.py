"""The vocabulary of a run: read, or trained on the run's own corpus and kept for the next."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from megacontext.config import fingerprint
from megacontext.corpus.shards import Corpus, Shard
from megacontext.errors import CheckpointError
from megacontext.models.checkpoint import load_tokenizer
from megacontext.tokenizer import Tokenizer
from megacontext.train.pretrain.config import VocabularyConfig


def vocabulary(config: VocabularyConfig, vocab_size: int, corpus: Corpus, cache: Path) -> Tokenizer:
    """The tokenizer that `config` names, or one trained on `corpus` and kept in `cache`.

    Several processes may ask at once: one trains, the others wait. Raises CheckpointError if it has not `vocab_size`
    ids, ConfigError if it cannot be read.
    """
    if config.tokenizer:
        path = Path(config.tokenizer).expanduser()
        tokenizer = load_tokenizer(path) if path.is_dir() else Tokenizer.load(path)
        if tokenizer.vocab_size != vocab_size:
            raise CheckpointError(
                f"the vocabulary must have model.vocab_size = {vocab_size} ids, {path} has {tokenizer.vocab_size}; "
                "change one of them"
            )
        return tokenizer
    cache.mkdir(parents=True, exist_ok=True)
    told = " ".join([fingerprint(config), str(vocab_size), *(shard.fingerprint for shard in corpus.train)])
    path = cache / f"tokenizer-{hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}.json"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            train_vocabulary(config, vocab_size, corpus.train).save(path)
    return Tokenizer.load(path)


def train_vocabulary(config: VocabularyConfig, vocab_size: int, shards: Iterable[Shard]) -> Tokenizer:
    """Learn a vocabulary from the documents of `shards`, as many as `config` allows. Raises ConfigError."""
    return Tokenizer.train(_texts(config, shards), vocab_size)


def _texts(config: VocabularyConfig, shards: Iterable[Shard]) -> Iterator[str]:
    left = config.max_chars
    for shard in shards:
        for document in shard.documents():
            text = document[: config.doc_cap] if config.doc_cap else document
            left -= len(text)
            yield text
            if left <= 0:
                return
