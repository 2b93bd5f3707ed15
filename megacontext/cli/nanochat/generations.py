"""What nanochat's options default to, in its two generations: facts from its scripts.

The contract as a whole: obsidian/architecture/Base models.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megacontext.errors import ConfigError
from megacontext.models.checkpoint import base_dir
from megacontext.train.pretrain.rates import RatesConfig

GenerationName = Literal["classic", "current"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Defaults of one generation."""

    data: str
    """Folder of the parquet shards."""
    max_chars: int
    vocab_size: int
    window_pattern: str
    target_param_data_ratio: float
    counted: Literal["all", "scaling"]
    total_batch_size: int
    eval_tokens: int
    weight_decay: float
    rates: RatesConfig


GENERATIONS: dict[GenerationName, Generation] = {
    "classic": Generation(
        data="base_data",
        max_chars=10_000_000_000,
        vocab_size=65_536,
        window_pattern="L",
        target_param_data_ratio=20.0,
        counted="all",
        total_batch_size=524_288,
        eval_tokens=20 * 524_288,
        weight_decay=0.0,
        rates=RatesConfig(
            embedding_lr=0.2,
            unembedding_lr=0.004,
            reference_batch=0,
            grad_clip=1.0,
            warmup_steps=0,
            warmdown_share=0.2,
            final_share=0.0,
            momentum=0.95,
            momentum_steps=300,
            momentum_end=0.95,
        ),
    ),
    "current": Generation(
        data="base_data_climbmix",
        max_chars=2_000_000_000,
        vocab_size=32_768,
        window_pattern="SSSL",
        target_param_data_ratio=12.0,
        counted="scaling",
        total_batch_size=-1,
        eval_tokens=80 * 524_288,
        weight_decay=0.28,
        rates=RatesConfig(),
    ),
}


def shards_folder(given: Path | None, generation: Generation) -> Path:
    """The folder of parquet shards: the one given, or nanochat's own. Raises ConfigError if it does not exist."""
    folder = given or base_dir() / generation.data
    if not folder.is_dir():
        raise ConfigError(
            f"training text lies in a folder of parquet shards, {folder} does not exist; give one with --data, or set "
            "NANOCHAT_BASE_DIR to where nanochat keeps its files"
        )
    return folder
