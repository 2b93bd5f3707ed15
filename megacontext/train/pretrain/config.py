"""What a pretraining run is made of. Each of two keys makes another of a vanilla run: `mega` folds blocks of what is
read into gists, `attention` decides how far back it is read in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megacontext.attention.pyramid import PyramidConfig
from megacontext.corpus.shards import CorpusConfig
from megacontext.errors import ConfigError
from megacontext.gistnet.gist import GistNetConfig
from megacontext.models.gpt import GPTConfig
from megacontext.tokenizer import check_vocab_size
from megacontext.train.pretrain.folding import FoldingConfig
from megacontext.train.pretrain.rates import RatesConfig


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """The vocabulary: one that is there, or one trained on the corpus (nanochat's tok_train)."""

    tokenizer: str = ""
    """A tokenizer.json, or a folder with nanochat's tokenizer.pkl; empty = train one of model.vocab_size."""
    max_chars: int = 2_000_000_000
    """Characters of the corpus that training sees at most."""
    doc_cap: int = 10_000
    """Characters of one document that it sees at most; 0 = all. Of books, see all: there are few."""

    def __post_init__(self) -> None:
        if self.max_chars < 1 or self.doc_cap < 0:
            raise ConfigError(
                "vocabulary.max_chars must be at least 1 and doc_cap not negative, got "
                f"{self.max_chars} and {self.doc_cap}; raise it"
            )


@dataclass(frozen=True, kw_only=True)
class HorizonConfig:
    """How long to train: the first of the three that is positive counts."""

    num_iterations: int = -1
    """Optimiser steps."""
    target_flops: float = -1.0
    """Arithmetic of the whole run, forward and backward."""
    target_param_data_ratio: float = -1.0
    """Tokens per parameter."""
    counted: Literal["all", "scaling"] = "scaling"
    """Which parameters that ratio counts: all, or the matrices and the head (nanochat since January 2026)."""

    def __post_init__(self) -> None:
        if max(self.num_iterations, self.target_flops, self.target_param_data_ratio) <= 0:
            raise ConfigError(
                "a run needs a horizon, got none; give horizon.num_iterations, target_flops or target_param_data_ratio"
            )


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How many tokens a step reads, and how many of them at once."""

    device_batch_size: int = 32
    """Rows that one device reads at once."""
    total_batch_size: int = -1
    """Tokens a step, over all devices; -1 = what the horizon suggests (2505.13738, as nanochat applies it)."""
    devices: int = 1
    """Devices that the recipe is meant for, which `--plan` counts with; a run has as many as torchrun starts."""

    def __post_init__(self) -> None:
        if min(self.device_batch_size, self.devices) < 1 or (
            self.total_batch_size < 1 and self.total_batch_size != -1
        ):
            raise ConfigError(
                "batch.device_batch_size and devices must be at least 1 and total_batch_size positive or -1, got "
                f"{self.device_batch_size}, {self.devices} and {self.total_batch_size}; change it"
            )


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How often a run is measured and saved, in steps; -1 = only at the end."""

    eval_every: int = 250
    eval_tokens: int = 80 * 524_288
    """Targets that bits per byte are taken over, at most."""
    sample_every: int = 2000
    """How often the model goes on from a few fixed beginnings."""
    save_every: int = -1
    trigram: bool = False
    """Also report what a trigram model of the same training tokens loses on the same text. It holds them in RAM."""
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.eval_tokens < 1 or self.log_every < 1:
            raise ConfigError(
                "measure.eval_tokens and log_every must be at least 1, got "
                f"{self.eval_tokens} and {self.log_every}; raise it"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A whole run."""

    trainer: Literal["pretrain"] = "pretrain"
    mega: bool = False
    """Read some blocks as gists, and train GistNet with the base. All else is the same, the order of tokens too."""
    attention: Literal["full", "window", "pyramid"] = "full"
    """Every layer sees all (or what the model's pattern says); or detail falls with distance, by summaries that a
    GistNet makes; or, to tell what these are good for, a sliding window of as many keys as the pyramid has."""
    seed: int = 42
    device: str = ""
    """cuda, cpu or mps; empty = the best that is there."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the arithmetic; weights stay fp32. auto = bf16 on a GPU, fp32 elsewhere."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile. auto = on a GPU."""
    corpus: CorpusConfig
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    model: GPTConfig = field(default_factory=GPTConfig)
    horizon: HorizonConfig
    batch: BatchConfig = field(default_factory=BatchConfig)
    rates: RatesConfig = field(default_factory=RatesConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    gistnet: GistNetConfig = field(default_factory=GistNetConfig)
    """Read only where `mega` is true or attention a pyramid: gists and summaries are made by the same net."""
    folding: FoldingConfig = field(default_factory=FoldingConfig)
    """Read only where `mega` is true."""
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    """Read only where attention is a pyramid, or a window of its cost."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}; nanochat's is 42")
        check_vocab_size(self.model.vocab_size)
        has_gistnet = self.mega or self.attention == "pyramid"
        if has_gistnet and self.model.n_embd % self.gistnet.heads:
            raise ConfigError(
                f"model.n_embd must be a multiple of gistnet.heads, got {self.model.n_embd} and {self.gistnet.heads}; "
                "change one"
            )
        if self.mega:
            self.folding.check(self.model.sequence_len)
        if self.attention != "full" and "S" in self.model.window_pattern:
            raise ConfigError(
                f"a {self.attention} is what every layer sees, model.window_pattern must be L with it, got "
                f"{self.model.window_pattern!r}; leave it out"
            )
        if self.attention == "pyramid" and self.gistnet.slots > 1:
            raise ConfigError(
                f"a summary is one vector, gistnet.slots must be 1 with a pyramid, got {self.gistnet.slots}; change it"
            )
        if self.mega and self.attention == "pyramid" and self.folding.block_size != self.pyramid.block:
            raise ConfigError(
                "one net makes gists and summaries, folding.block_size and pyramid.block must be equal, got "
                f"{self.folding.block_size} and {self.pyramid.block}; change one"
            )

    @property
    def window(self) -> int | None:
        """Entries before its own that every layer sees where attention is a window of the pyramid's cost; else None."""
        if self.attention != "window":
            return None
        return self.pyramid.equal_window(self.model.sequence_len) - 1

    @property
    def is_causal(self) -> bool:
        """Whether what is predicted depends on nothing that follows, as of a language model."""
        return self.attention != "pyramid" or not self.pyramid.overshoot
