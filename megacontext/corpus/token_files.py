"""The tokens of a shard, on disk and mapped: made once, read by every run and every process.

A shard's documents stand one behind the other, each with the begin-of-sequence token before it, as nanochat's first
data loader has them. The file is a plain .npy array, named after shard, vocabulary and content, so a file that is
there is the right one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from megacontext.corpus.shards import Shard
from megacontext.errors import ConfigError
from megacontext.progress import Progress
from megacontext.tokenizer import Tokenizer

_DOCUMENTS_AT_ONCE = 256


def token_file(shard: Shard, tokenizer: Tokenizer, folder: Path) -> np.ndarray:
    """Ids of `shard`, uint16 or uint32 (N,), mapped from `folder`; tokenised first if it is not there.

    Several processes may ask at once: one works, the others wait. Raises ConfigError for a shard without text, or one
    that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{shard.name}-{shard.fingerprint}-{tokenizer.fingerprint}.npy"
    if not path.exists():
        with (folder / f"{path.stem}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _write(path, shard, tokenizer)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _write(path: Path, shard: Shard, tokenizer: Tokenizer) -> None:
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    aside = path.with_suffix(".tmp")
    count = 0
    try:
        with aside.open("wb") as file, Progress(f"tokens of {shard.name}", None) as progress:
            for ids in _tokens(shard.documents(), tokenizer):
                file.write(ids.astype(dtype).tobytes())
                count += len(ids)
                progress.advance(steps=len(ids))
        if count == 0:
            raise ConfigError(f"a shard must hold text, {shard.name} holds none; leave it out")
        raw = np.memmap(aside, dtype=dtype, mode="r", shape=(count,))
        whole = path.with_suffix(".whole")
        array = np.lib.format.open_memmap(whole, mode="w+", dtype=dtype, shape=(count,))
        array[:] = raw
        array.flush()
        os.replace(whole, path)
    finally:
        aside.unlink(missing_ok=True)


def _tokens(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    documents = iter(documents)
    while texts := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        for ids in tokenizer.encode_many(texts):
            yield np.concatenate(([tokenizer.bos_id], ids))
