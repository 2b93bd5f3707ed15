"""The start of a vanilla model: nanochat's, in its two generations.

Output maps start at zero in both, so that every layer begins as the identity. Classic draws matrices from a normal
distribution of standard deviation min(1, sqrt(out / in)) / sqrt(in) (2310.17813) and starts the head at zero; since
January 2026 matrices are uniform with the standard deviation 1 / sqrt(E) and the head is small but not zero.
"""

from __future__ import annotations

import torch

from megacontext.models.gpt import GPT

_HEAD_STD = 0.001


@torch.no_grad()
def initialise(model: GPT, generator: torch.Generator) -> None:
    """Draw all parameters of `model`, in the order of their names. Same generator state, same weights."""
    modern = model.dialect.residual_scalars
    bound = (3 / model.config.n_embd) ** 0.5
    for name, parameter in sorted(model.named_parameters()):
        if name.endswith("wte.weight"):
            parameter.normal_(generator=generator)
        elif name.endswith("c_proj.weight") or "gate" in name:
            parameter.zero_()
        elif name == "lm_head.weight":
            parameter.normal_(std=_HEAD_STD, generator=generator) if modern else parameter.zero_()
        elif parameter.ndim == 1:
            parameter.fill_({"resid_lambdas": 1.0, "x0_lambdas": 0.1}.get(name, 0.0))
        elif modern:
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            rows, columns = parameter.shape
            parameter.normal_(std=min(1.0, (rows / columns) ** 0.5) * columns**-0.5, generator=generator)
