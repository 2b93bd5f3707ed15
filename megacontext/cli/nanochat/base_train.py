"""`megacontext nanochat base_train`: vanilla pretraining by nanochat's options.

The options become a recipe, and the run is that of `megacontext train`. What is nanochat's alone is said, not
passed over in silence: CORE (its questions are a download) is not measured, and fp8 is refused.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from megacontext.cli.answers import answer
from megacontext.cli.nanochat.generations import GENERATIONS, Generation, GenerationName, shards_folder
from megacontext.cli.plans import print_plan
from megacontext.corpus.shards import CorpusConfig
from megacontext.errors import ConfigError
from megacontext.models.checkpoint import base_dir, load_tokenizer
from megacontext.models.scaling import model_size, shape_of_depth
from megacontext.train.pretrain.config import (
    BatchConfig,
    HorizonConfig,
    MeasureConfig,
    PretrainConfig,
    VocabularyConfig,
)
from megacontext.train.pretrain.plan import REFERENCE_BATCH, plan, reference_shape
from megacontext.train.trainers import TRAINERS, Order, planned_devices

T = TypeVar("T")


@dataclass(frozen=True)
class BaseTrain:
    """Pretrain a base model as nanochat does.

    On several GPUs: torchrun --nproc_per_node=8 -m megacontext nanochat base_train
    """

    run_name: Annotated[str, tyro.conf.arg(name="run")] = "dummy"
    """Name of a run at Weights & Biases; dummy = none."""
    device_type: str = ""
    """cuda, cpu or mps; empty = the best that is there."""
    fp8: bool = False
    """Not supported here: refused."""
    fp8_recipe: str = "tensorwise"
    """Of --fp8."""
    depth: int = 20
    """Layers; width and heads follow from it."""
    aspect_ratio: int = 64
    """Width per layer."""
    head_dim: int = 128
    """Width of a head."""
    max_seq_len: int = 2048
    """Tokens of a row."""
    window_pattern: str | None = None
    """L (long) and S (short), tiled over the layers; default: SSSL, classic L."""
    num_iterations: int = -1
    """Steps; -1 = by the next two."""
    target_flops: float = -1.0
    """Arithmetic of the run; -1 = by the next."""
    target_param_data_ratio: float | None = None
    """Tokens per parameter; default: 12 of matrices and head, classic 20 of all."""
    device_batch_size: int = 32
    """Rows that a device reads at once."""
    total_batch_size: int | None = None
    """Tokens of a step; default: -1 = found from the horizon, classic 524,288."""
    embedding_lr: float | None = None
    """Default: .3, classic .2."""
    unembedding_lr: float | None = None
    """Default: .008, classic .004."""
    matrix_lr: float = 0.02
    scalar_lr: float = 0.5
    weight_decay: float | None = None
    """Of the matrices, at depth 12 and 2**19 tokens a step; default: .28, classic 0."""
    grad_clip: float | None = None
    """Largest norm of the gradient, 0 = any; default: 0, classic 1."""
    warmup_steps: int | None = None
    """Default: 40, classic 0."""
    warmup_ratio: float | None = None
    """The same as a share of the steps, which is how classic says it."""
    warmdown_ratio: float | None = None
    """Default: .65, classic .2."""
    final_lr_frac: float | None = None
    """Default: .05, classic 0."""
    resume_from_step: int = -1
    """Go on from the state of that step; -1 = begin."""
    eval_every: int = 250
    eval_tokens: int | None = None
    """Default: 80 * 2**19, classic 20 * 2**19."""
    core_metric_every: int = 2000
    """Accepted; CORE is not measured here."""
    core_metric_max_per_task: int = 500
    """Accepted; CORE is not measured here."""
    sample_every: int = 2000
    save_every: int = -1
    model_tag: str | None = None
    """Folder of the checkpoint; default: d and the depth."""
    dialect: GenerationName = "current"
    """Which generation of nanochat: its architecture and its defaults."""
    data: Path | None = None
    """Folder of parquet shards; default: nanochat's own."""
    seed: int = 42
    runs: Path = Path("runs")
    """Folder that holds the runs; this one is named after the model's tag."""
    plan: bool = False
    """Print what the run will take, and start nothing."""
    json: bool = False
    """Print the metrics, or the plan, as JSON."""

    def run(self) -> int:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ConfigError("a warmup is given once, got --warmup-steps and --warmup-ratio; drop one")
        if self.fp8:
            raise ConfigError(
                "fp8 training is nanochat's own and not supported here, got --fp8; leave it out"
            )
        config = self.recipe()
        if self.plan:
            print_plan(plan(config, planned_devices(config)), self.json)
            return 0
        tag = self.model_tag or f"d{self.depth}"
        order = Order(
            runs=self.runs,
            name=tag,
            out=base_dir(),
            resume=self.runs / tag if self.resume_from_step != -1 else None,
            resume_step=self.resume_from_step,
            wandb_run=self.run_name,
            tag=tag,
            told={name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(self).items()},
        )
        outcome = TRAINERS.get("pretrain").train(config, order)
        if outcome.leads:
            if self.core_metric_every > 0:
                print("CORE was not measured: its questions are nanochat's download", file=sys.stderr)
            told = {"model": str(outcome.model), "metrics": outcome.metrics}
            answer(told, self.json, lambda: _print(told))
        return 0

    def recipe(self) -> PretrainConfig:
        """The run as a recipe. Raises ConfigError for options that do not fit, or a vocabulary that is missing."""
        generation = GENERATIONS[self.dialect]
        vocabulary = base_dir() / "tokenizer"
        config = PretrainConfig(
            seed=self.seed,
            device=self.device_type,
            corpus=CorpusConfig(shards=str(shards_folder(self.data, generation))),
            vocabulary=VocabularyConfig(tokenizer=str(vocabulary)),
            model=shape_of_depth(
                self.depth,
                self.dialect,
                vocab_size=load_tokenizer(vocabulary).vocab_size,
                sequence_len=self.max_seq_len,
                window_pattern=_given(self.window_pattern, generation.window_pattern),
                aspect=self.aspect_ratio,
                head=self.head_dim,
            ),
            horizon=HorizonConfig(
                num_iterations=self.num_iterations,
                target_flops=self.target_flops,
                target_param_data_ratio=_given(
                    self.target_param_data_ratio, generation.target_param_data_ratio
                ),
                counted=generation.counted,
            ),
            batch=BatchConfig(
                device_batch_size=self.device_batch_size,
                total_batch_size=_given(self.total_batch_size, generation.total_batch_size),
            ),
            measure=MeasureConfig(
                eval_every=self.eval_every,
                eval_tokens=_given(self.eval_tokens, generation.eval_tokens),
                sample_every=self.sample_every,
                save_every=self.save_every,
            ),
        )
        rates = dataclasses.replace(
            generation.rates,
            embedding_lr=_given(self.embedding_lr, generation.rates.embedding_lr),
            unembedding_lr=_given(self.unembedding_lr, generation.rates.unembedding_lr),
            matrix_lr=self.matrix_lr,
            scalar_lr=self.scalar_lr,
            grad_clip=_given(self.grad_clip, generation.rates.grad_clip),
            warmup_steps=self._warmup(config, generation),
            warmdown_share=_given(self.warmdown_ratio, generation.rates.warmdown_share),
            final_share=_given(self.final_lr_frac, generation.rates.final_share),
            weight_decay=self._decay(config, generation),
        )
        return dataclasses.replace(config, rates=rates)

    def _warmup(self, config: PretrainConfig, generation: Generation) -> int:
        if self.warmup_ratio is None:
            return _given(self.warmup_steps, generation.rates.warmup_steps)
        return round(self.warmup_ratio * plan(config, planned_devices(config)).steps)

    def _decay(self, config: PretrainConfig, generation: Generation) -> float:
        """The weight decay for this batch and horizon: lambda * sqrt(B / B_ref) * D_ref / D (2405.13698)."""
        decay = _given(self.weight_decay, generation.weight_decay)
        if not decay or not generation.rates.reference_batch:
            return decay
        planned = plan(config, planned_devices(config))
        ratio = config.horizon.target_param_data_ratio
        reference = ratio * model_size(reference_shape(config.model)).scaling
        horizon = ratio * model_size(config.model).scaling
        return decay * (planned.batch_tokens / REFERENCE_BATCH) ** 0.5 * reference / horizon


def _print(told: dict[str, Any]) -> None:
    print(f"bits per byte {told['metrics']['bits_per_byte']:.4f}; checkpoint in {told['model']}")


def _given(option: T | None, default: T) -> T:
    return default if option is None else option
