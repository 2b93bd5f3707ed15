"""One token after the other: what a base model says next, streamed.

Each token is computed once, with a key/value cache, and handed out as soon as it is drawn. Deliberately knows nothing
of text, chats or working contexts; many readings at once are `decoding`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch

from megacontext.errors import ConfigError, ShapeError
from megacontext.models.base import BaseModel


def generate(
    base: BaseModel,
    prompt_ids: Sequence[int] | np.ndarray,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    stop_ids: Collection[int] = (),
    seed: int = 0,
) -> Iterator[int]:
    """Token ids that follow `prompt_ids` (P,), at most `max_tokens`, without the one of `stop_ids` that ended them.

    Temperature 0 takes the likeliest token; otherwise one is drawn from the `top_k` likeliest (0: from all), with
    their logits divided by the temperature. Equal seeds draw equal tokens. Raises ShapeError for a prompt that is
    empty, ConfigError for options out of range; both before the first token is asked for.
    """
    prompt = np.asarray(prompt_ids, dtype=np.int64)
    if prompt.ndim != 1 or not len(prompt):
        raise ShapeError(f"a prompt is a row of at least one token id, got {prompt.shape}; say something")
    check_ids(prompt, base)
    check_drawing(max_tokens, temperature, top_k, seed)
    chance = torch.Generator().manual_seed(seed)
    return _generate(
        base, torch.as_tensor(prompt), max_tokens, temperature, top_k, frozenset(stop_ids), chance
    )


def check_ids(ids: np.ndarray, base: BaseModel) -> None:
    """Raises ShapeError for ids of any shape, integers, that `base` does not know."""
    if ids.size and not (ids.min() >= 0 and ids.max() < base.vocab_size):
        raise ShapeError(
            f"token ids lie in [0, {base.vocab_size}), got {ids.min()} to {ids.max()}; use the tokenizer that the "
            "model was trained with"
        )


def check_drawing(max_tokens: int, temperature: float, top_k: int, seed: int) -> None:
    """Raises ConfigError for options of `generate` that are out of range."""
    if max_tokens < 1:
        raise ConfigError(f"max_tokens must be at least 1, got {max_tokens}; raise it")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature must be 0 or above, got {temperature}; 0 takes the likeliest token")
    if top_k < 0:
        raise ConfigError(f"top_k must be 0 or above, got {top_k}; 0 draws from the whole vocabulary")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must not be negative and fit 63 bits, got {seed}; choose another")


@torch.inference_mode()
def _generate(
    base: BaseModel,
    prompt: torch.Tensor,
    max_tokens: int,
    temperature: float,
    top_k: int,
    stop_ids: frozenset[int],
    chance: torch.Generator,
) -> Iterator[int]:
    cache = base.reserve(1, len(prompt) + max_tokens)
    ids = prompt[None].to(base.device)  # (1, P), later (1, 1)
    for _ in range(max_tokens):
        positions = torch.arange(cache.length, cache.length + ids.shape[1], device=base.device)[None]
        hidden = base(base.embed(ids), positions, ids=ids, cache=cache)
        # Drawn on the CPU, where equal seeds draw equal tokens whatever the device.
        token = draw(base.unembed(hidden[0, -1]).cpu(), temperature, top_k, chance)
        if token in stop_ids:
            return
        yield token
        ids = torch.tensor([[token]], device=base.device)


def draw(logits: torch.Tensor, temperature: float, top_k: int, chance: torch.Generator) -> int:
    """One id by the logits (V,)."""
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        logits, among = logits.topk(top_k)
    else:
        among = torch.arange(len(logits))
    # The largest is taken off first: a temperature near 0 would carry the quotients beyond what a float holds.
    chances = torch.softmax((logits - logits.max()) / temperature, dim=-1)
    return int(among[torch.multinomial(chances, 1, generator=chance)])
