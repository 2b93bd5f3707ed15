"""What a training of pooled gists will take, before it starts: what the decoder reads, arithmetic, memory.

Arithmetic counts multiplications and additions of the decoder alone: two a weight and token to read, as many again to
send gradients back to the gists (its own weights get none), and attention over what is before each token. The nets
that pool are three hundredths of that at most. Memory is an estimate: the decoder's weights, what the backward pass of
one step needs layer by layer, and logits, which are the most of it where the vocabulary is large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from megacontext.gistnet.pooled import PooledCache
from megacontext.train.plans import TrainingPlan
from megacontext.train.pooled.config import PooledTrainConfig
from megacontext.train.pooled.loop import PooledData, chosen_segments

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class PooledPlan(TrainingPlan):
    """The figures of a run."""

    decoder_parameters: int
    parameters: int
    """Those that are trained."""
    segments: int
    """That windows end in."""
    steps: int
    tokens_read: int
    """By the decoder, without gradients."""
    positions: int
    """Of windows, which the decoder reads with gradients; where they vary in length, of the longest."""
    flops: float

    def rows(self) -> list[tuple[str, str]]:
        """The figures in words."""
        return [
            ("parameters", f"{self.parameters:,}"),
            ("... of the frozen decoder", f"{self.decoder_parameters:,}"),
            ("segments that windows end in", f"{self.segments:,}"),
            ("steps", f"{self.steps:,}"),
            ("tokens that the decoder reads", f"{self.tokens_read:,}"),
            ("positions of windows, with gradients", f"{self.positions:,}"),
            ("FLOPs", f"{self.flops:.3e}"),
            ("memory, GiB (estimate)", f"{self.memory_gib:.2f}"),
            ("... weights", f"{self.weights_gib:.2f}"),
            ("... activations of one step", f"{self.activations_gib:.2f}"),
        ]


def plan_pooled(config: PooledTrainConfig, data: PooledData) -> PooledPlan:
    """The plan of `config`, whose decoder and documents are at hand."""
    base, shape, distill = data.decoder.base, config.shape, config.distill
    model = base.config
    segments = chosen_segments(config, data.documents)
    net = PooledCache(config.pooled, entry_shape=base.entry_shape, block_size=config.block_size)
    trained = net.levels[-1]
    count = distill.distant_blocks * 2 * base.entry_shape[0] * base.entry_shape[1] * base.entry_shape[2]
    parameters = count if config.constant else sum(one.numel() for one in trained.parameters())
    weights = sum(one.numel() for one in base.model.parameters())
    table = model.vocab_size * model.hidden_size
    body, width = weights - table, model.num_attention_heads * base.entry_shape[2]

    read = _segments_read(config, segments) * config.segment_blocks * config.block_size
    within = config.segment_blocks * config.block_size / 2
    window = shape.gists + shape.raw_tokens + shape.scored_tokens
    windows = min(distill.windows, len(config.places(shape)))
    positions = distill.steps * windows * window
    scored = distill.steps * windows * shape.scored_tokens
    flops = read * (2 * body + 4 * model.num_hidden_layers * width * within)
    flops += positions * 2 * (2 * body + 4 * model.num_hidden_layers * width * window / 2)
    flops += scored * table * (4 if distill.reach_segments > 1 else 6)

    kv = base.entry_shape[1] * base.entry_shape[2]
    # A layer keeps its stream before both norms, q, k and v before and after the rotation, the attention's output, and
    # of the inner layer gate, its activation and what it is multiplied with.
    numbers = 3 * model.hidden_size + 2 * (width + 2 * kv) + 3 * model.intermediate_size
    at_once = windows * window
    bytes_a_number = torch.finfo(data.decoder.base.model.dtype).bits // 8
    logits = 3 * 4 * windows * shape.scored_tokens * model.vocab_size
    return PooledPlan(
        decoder_parameters=weights,
        parameters=parameters,
        segments=len(segments),
        steps=config.matching.steps * (not config.constant) + distill.steps,
        tokens_read=int(read),
        positions=positions,
        flops=float(flops),
        weights_gib=(weights * bytes_a_number + parameters * 16) / _GIB,
        activations_gib=(at_once * numbers * model.num_hidden_layers * bytes_a_number + logits) / _GIB,
    )


def _segments_read(config: PooledTrainConfig, segments: list[list[np.ndarray]]) -> int:
    """How many segments the decoder reads: one a step, but for a level above in the second stage each only once."""
    matched = config.matching.steps * (not config.constant)
    if config.pooled.levels == 1:
        return matched + config.distill.steps
    known = {segments[step % len(segments)][-1].tobytes() for step in range(matched)}
    last = matched + config.distill.steps
    wanted = {piece.tobytes() for step in range(matched, last) for piece in segments[step % len(segments)]}
    return matched + len(wanted - known)
