"""nanochat's learning rates: which parameters have which, and how they change over a run.

Facts from nanochat: four rates, for input embeddings, head, matrices (Muon) and scalars; AdamW's scale with the
width as (E / 768) ** -0.5; since January 2026 all of them scale with the root of the batch over 2**19 tokens. The
optimisers are torch's: nanochat's own variant of Muon, which also normalises the variance of updates and decays
weights only where that agrees with the update, is not repeated here (obsidian/architecture/Base models.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from megacontext.errors import ConfigError
from megacontext.models.gpt import GPT
from megacontext.models.scaling import parameter_kind
from megacontext.train.optimisers import Group, Kind

_REFERENCE_WIDTH = 768
_EPS = 1e-10


@dataclass(frozen=True, kw_only=True)
class RatesConfig:
    """The rates and their schedule; the defaults are nanochat's of today."""

    embedding_lr: float = 0.3
    unembedding_lr: float = 0.008
    matrix_lr: float = 0.02
    scalar_lr: float = 0.5
    gist_lr: float = 0.02
    """Of GistNet's matrices (Muon); its vectors have a tenth of it (AdamW)."""
    matrix_precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of Muon's iteration. float32 where the processor has no arithmetic of bfloat16: see `train.muon`."""
    weight_decay: float = 0.0
    """Of the matrices, decoupled; falls to zero along a cosine."""
    reference_batch: int = 524_288
    """Tokens of the batch at which the rates hold; others scale with the root. 0 = no scaling."""
    warmup_steps: int = 40
    warmdown_share: float = 0.65
    """The last share of the steps, over which the rates fall."""
    final_share: float = 0.05
    """Where they end, as a share of the full rate."""
    grad_clip: float = 0.0
    """Largest norm of the gradient, over all weights together; 0 = any."""
    momentum_start: float = 0.85
    momentum: float = 0.97
    """Muon's, reached after `momentum_steps`."""
    momentum_steps: int = 400
    momentum_end: float = 0.90
    """Where it falls to while the rates fall."""

    def __post_init__(self) -> None:
        if min(self.embedding_lr, self.unembedding_lr, self.matrix_lr, self.scalar_lr, self.gist_lr) <= 0:
            raise ConfigError("the learning rates of rates.* must be positive; raise the one that is not")
        shares = (
            self.warmdown_share,
            self.final_share,
            self.momentum_start,
            self.momentum,
            self.momentum_end,
        )
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"shares and momenta of rates.* must lie in [0, 1], got {shares}; change them")
        if (
            min(
                self.warmup_steps,
                self.momentum_steps,
                self.reference_batch,
                self.weight_decay,
                self.grad_clip,
            )
            < 0
        ):
            raise ConfigError(
                "rates.warmup_steps, momentum_steps, reference_batch, weight_decay and grad_clip must not be negative; "
                "raise the one that is"
            )

    def factor(self, step: int, steps: int) -> float:
        """Share of the full rates at `step` of `steps`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        left = self._left(step, steps)
        return left + (1 - left) * self.final_share

    def momentum_at(self, step: int, steps: int) -> float:
        """Muon's momentum at `step` of `steps`."""
        if step < self.momentum_steps:
            share = step / self.momentum_steps
            return (1 - share) * self.momentum_start + share * self.momentum
        left = self._left(step, steps)
        return left * self.momentum + (1 - left) * self.momentum_end

    def decay_factor(self, step: int, steps: int) -> float:
        """Share of the weight decay at `step` of `steps`."""
        return 0.5 * (1 + math.cos(math.pi * step / steps))

    def _left(self, step: int, steps: int) -> float:
        """1 until the warmdown begins, then linearly to 0 at the end."""
        warmdown = round(self.warmdown_share * steps)
        return min(1.0, (steps - step) / warmdown) if warmdown else 1.0

    def groups(self, base: GPT, gistnet: nn.Module | None, batch_tokens: int) -> list[Group]:
        """Every parameter in the group of its kind, at the rates for `batch_tokens` tokens a step.

        `gistnet` is the net that makes gists, or all that makes summaries.
        """
        scale = (batch_tokens / self.reference_batch) ** 0.5 if self.reference_batch else 1.0
        adam = scale * (base.config.n_embd / _REFERENCE_WIDTH) ** -0.5
        kinds: dict[str, list[nn.Parameter]] = {"embeddings": [], "matrices": [], "head": []}
        scalars: list[tuple[str, nn.Parameter]] = []
        for name, parameter in base.named_parameters():
            kind = parameter_kind(name)
            if kind == "scalars":
                scalars.append((name, parameter))
            else:
                kinds[kind].append(parameter)
        groups = [
            Group(parameters=kinds["embeddings"], lr=self.embedding_lr * adam, eps=_EPS),
            Group(parameters=kinds["head"], lr=self.unembedding_lr * adam, eps=_EPS),
            Group(
                parameters=kinds["matrices"],
                lr=self.matrix_lr * scale,
                kind=self._muon,
                weight_decay=self.weight_decay,
            ),
            *(self._scalar_group(name, parameter, scale) for name, parameter in scalars),
        ]
        if gistnet is not None:
            groups += self._gist_groups(gistnet.parameters(), scale)
        return groups

    @property
    def _muon(self) -> Kind:
        return "muon" if self.matrix_precision == "bfloat16" else "float-muon"

    def _scalar_group(self, name: str, parameter: nn.Parameter, scale: float) -> Group:
        """The residual stream's own weights move slowly; those of the first embedding have a longer memory."""
        if name == "resid_lambdas":
            return Group(parameters=[parameter], lr=0.01 * self.scalar_lr * scale, eps=_EPS)
        if name == "x0_lambdas":
            return Group(parameters=[parameter], lr=self.scalar_lr * scale, betas=(0.96, 0.95), eps=_EPS)
        return Group(parameters=[parameter], lr=0.4 * self.scalar_lr * scale, eps=_EPS)

    def _gist_groups(self, parameters: Iterable[nn.Parameter], scale: float) -> list[Group]:
        parameters = list(parameters)
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        vectors = [parameter for parameter in parameters if parameter.ndim != 2]
        return [
            Group(parameters=matrices, lr=self.gist_lr * scale, kind=self._muon),
            Group(parameters=vectors, lr=0.1 * self.gist_lr * scale),
        ]
