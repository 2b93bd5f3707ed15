"""The smallest pretraining: a tiny model on a stretch of a book."""

import dataclasses

from toys import model_config, write_book

from megacontext.corpus.shards import CorpusConfig, open_corpus
from megacontext.gistnet.gist import GistNetConfig
from megacontext.train.pretrain.config import (
    BatchConfig,
    HorizonConfig,
    MeasureConfig,
    PretrainConfig,
    VocabularyConfig,
)
from megacontext.train.pretrain.folding import FoldingConfig
from megacontext.train.pretrain.plan import plan
from megacontext.train.pretrain.rates import RatesConfig
from megacontext.train.pretrain.trainer import Trainer
from megacontext.train.pretrain.vocabulary import vocabulary
from megacontext.train.pretrain.world import World

ROW = 64


def recipe(folder, **changes):
    """A few steps of 8 rows."""
    if not (folder / "one.txt").exists():
        write_book(folder / "one.txt", 20_000)
        write_book(folder / "two.txt", 6_000, start=60_000)
    toy = {
        "device": "cpu",
        "corpus": CorpusConfig(books=(str(folder / "one.txt"),), held_out=(str(folder / "two.txt"),)),
        "vocabulary": VocabularyConfig(doc_cap=0),
        "model": model_config(sequence_len=ROW, vocab_size=400),
        "horizon": HorizonConfig(num_iterations=6),
        "batch": BatchConfig(device_batch_size=4, total_batch_size=8 * ROW),
        "rates": RatesConfig(
            embedding_lr=0.05, unembedding_lr=0.01, scalar_lr=0.05, reference_batch=0, warmup_steps=2
        ),
        "measure": MeasureConfig(eval_every=3, eval_tokens=512, sample_every=-1, save_every=3, log_every=1),
        "gistnet": GistNetConfig(heads=2),
        "folding": FoldingConfig(block_size=8),
    }
    return PretrainConfig(**(toy | changes))


def trainer_of(config, folder, world=None):
    import torch

    world = world or World(0, 1, torch.device("cpu"))
    corpus, cache = open_corpus(config.corpus), folder / ".tokens"
    tokenizer = vocabulary(config.vocabulary, config.model.vocab_size, corpus, cache)
    return Trainer(config, plan(config, world.size), corpus, tokenizer, cache, world)


def with_steps(config, steps):
    return dataclasses.replace(config, horizon=HorizonConfig(num_iterations=steps))
