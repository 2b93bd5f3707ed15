"""What a run will take, before anything starts: steps, tokens, arithmetic, and memory on each device.

The memory is an estimate for one device with data parallelism: weights, gradients and the optimisers' state in
fp32, and the activations that the backward pass needs, counted layer by layer. It leaves out the allocator's slack
and fragmentation, which a tenth covers in practice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from megacontext.errors import ConfigError
from megacontext.gistnet.gist import GistNet
from megacontext.models.gpt import GPTConfig
from megacontext.models.scaling import ModelSize, flops_per_token, model_size, shape_of_depth
from megacontext.train.plans import TrainingPlan
from megacontext.train.pretrain.config import HorizonConfig, PretrainConfig

_BATCH_EXPONENT = 0.383
"""The best batch grows with the tokens to this power (Power Lines, 2505.13738)."""
REFERENCE_BATCH = 2**19
_REFERENCE_DEPTH = 12
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Plan(TrainingPlan):
    """The figures of a run."""

    parameters: int
    embeddings: int
    matrices: int
    head: int
    flops_per_token: float
    steps: int
    batch_tokens: int
    micro_steps: int
    """Forward and backward passes of one step on one device."""
    tokens: int
    tokens_per_parameter: float
    flops: float
    devices: int

    def rows(self) -> list[tuple[str, str]]:
        """The figures in words."""
        return [
            ("parameters", f"{self.parameters:,}"),
            ("... embeddings, looked up", f"{self.embeddings:,}"),
            ("... matrices of the layers", f"{self.matrices:,}"),
            ("... head", f"{self.head:,}"),
            ("steps", f"{self.steps:,}"),
            ("tokens a step", f"{self.batch_tokens:,}"),
            ("... in passes on each device", f"{self.micro_steps:,}"),
            ("tokens", f"{self.tokens:,}"),
            ("tokens a parameter", f"{self.tokens_per_parameter:.2f}"),
            ("FLOPs a token", f"{self.flops_per_token:.3e}"),
            ("FLOPs", f"{self.flops:.3e}"),
            ("devices", f"{self.devices}"),
            ("memory on each, GiB (estimate)", f"{self.memory_gib:.2f}"),
            ("... weights, gradients, optimisers", f"{self.weights_gib:.2f}"),
            ("... activations of one pass", f"{self.activations_gib:.2f}"),
        ]


def plan(config: PretrainConfig, devices: int) -> Plan:
    """The plan of `config` on so many devices. Raises ConfigError where steps cannot be made of whole batches."""
    size = run_size(config)
    tokens = wanted_tokens(config.horizon, size)
    batch = config.batch.total_batch_size
    if batch == -1:
        batch = suggested_batch(config, tokens)
    at_once = config.batch.device_batch_size * config.model.sequence_len * devices
    if batch % at_once:
        raise ConfigError(
            f"a step's batch must be a multiple of what {devices} devices read at once, got {batch:,} tokens and "
            f"{config.batch.device_batch_size} rows x {config.model.sequence_len} tokens x {devices} = {at_once:,}; "
            "change batch.device_batch_size or batch.total_batch_size"
        )
    steps = config.horizon.num_iterations
    if steps <= 0:
        steps = max(1, round(tokens / batch))
    return Plan(
        parameters=size.total,
        embeddings=size.embeddings,
        matrices=size.matrices,
        head=size.head,
        flops_per_token=size.flops_per_token,
        steps=steps,
        batch_tokens=batch,
        micro_steps=batch // at_once,
        tokens=steps * batch,
        tokens_per_parameter=steps * batch / size.total,
        flops=size.flops_per_token * steps * batch,
        weights_gib=_weight_bytes(size) / _GIB,
        activations_gib=_activation_bytes(config) / _GIB,
        devices=devices,
    )


def run_size(config: PretrainConfig) -> ModelSize:
    """Size of the base, with the arithmetic of the attention that it is trained with.

    A query counts with all that it sees at the end of a row, as full attention is counted too. A pyramid's summaries
    are rows of every layer, and making one takes GistNet's weights once for each child.
    """
    size, model = model_size(config.model), config.model
    if config.window is not None:
        seen = model.n_layer * (config.window + 1)
        return replace(size, flops_per_token=flops_per_token(size, model.n_embd, seen))
    if config.attention != "pyramid":
        return size
    with torch.device("meta"):
        net = GistNet(config.gistnet, width=model.n_embd, block_size=config.pyramid.block)
    made = summaries_per_token(config)
    flops = flops_per_token(
        size, model.n_embd, model.n_layer * config.pyramid.most_seen(model.sequence_len), 1 + made
    )
    weights = sum(one.numel() for one in net.parameters())
    return replace(size, flops_per_token=flops + 6.0 * weights * config.pyramid.block * made)


def summaries_per_token(config: PretrainConfig) -> float:
    """Summaries that a row of the run has for each of its tokens; 0 without a pyramid."""
    if config.attention != "pyramid":
        return 0.0
    return sum(config.pyramid.rule.count(config.model.sequence_len)[1:]) / config.model.sequence_len


def wanted_tokens(horizon: HorizonConfig, size: ModelSize) -> float:
    """Tokens that the horizon asks for; infinite where it is a number of steps."""
    if horizon.num_iterations > 0:
        return math.inf
    if horizon.target_flops > 0:
        return horizon.target_flops / size.flops_per_token
    counted = size.total if horizon.counted == "all" else size.scaling
    return horizon.target_param_data_ratio * counted


def suggested_batch(config: PretrainConfig, tokens: float) -> int:
    """nanochat's batch for a horizon: 2**19 tokens at depth 12 and the same ratio, more with a power of the tokens."""
    if math.isinf(tokens):
        raise ConfigError(
            "a batch is suggested for a horizon in tokens, got one in steps; give batch.total_batch_size"
        )
    ratio = max(config.horizon.target_param_data_ratio, 1.0)
    reference = ratio * model_size(reference_shape(config.model)).scaling
    return 2 ** round(math.log2(REFERENCE_BATCH * (tokens / reference) ** _BATCH_EXPONENT))


def reference_shape(model: GPTConfig) -> GPTConfig:
    """The model of depth 12 with which nanochat's rates were found."""
    return shape_of_depth(
        _REFERENCE_DEPTH,
        model.dialect,
        vocab_size=model.vocab_size,
        sequence_len=model.sequence_len,
        window_pattern=model.window_pattern,
    )


def _weight_bytes(size: ModelSize) -> float:
    """fp32 weights and gradients; AdamW keeps two more numbers a parameter, Muon one."""
    adamw = size.embeddings + size.head + size.scalars
    return 4.0 * (4 * adamw + 3 * size.matrices)


def _activation_bytes(config: PretrainConfig) -> float:
    """What the backward pass of one micro-step needs, attention without its scores (SDPA keeps none).

    A layer keeps about 20 numbers per token and unit of width: the stream before both norms and both normed streams,
    q, k and v before and after the rotation, the attention's output, and twice the four-fold inner layer. The
    head keeps its logits twice, in fp32.
    """
    model = config.model
    tokens = config.batch.device_batch_size * model.sequence_len
    bytes_a_number = (
        2 if config.precision == "bf16" or (config.precision == "auto" and config.device != "cpu") else 4
    )
    layers = 20 * model.n_embd * model.n_layer * bytes_a_number * (1 + summaries_per_token(config))
    return float(tokens * (layers + 2 * 4 * model.vocab_size))
