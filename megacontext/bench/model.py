"""How fast our GPT trains, reads and writes, alone or beside nanochat's own code with the same weights.

First what is timed is checked: reading with a cache gives the logits of reading at once, nanochat's code gives ours.
Then the two take turns, so that a change of the machine's pace falls on both, and ratios are taken turn by turn.

    train    forward and backward of one batch, without the optimiser
    prefill  a prompt into a fresh cache, with its logits
    decode   one token at a time on top of a prompt, for 1 and for 8 rows
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.bench.checkout import Checkout
from megacontext.bench.machine import machine
from megacontext.bench.measuring import spread
from megacontext.errors import ConfigError
from megacontext.models.dialect import DIALECTS
from megacontext.models.gpt import GPT, GPTConfig

_TOLERANCE = 1e-3
"""Largest difference of two logits that counts as equal: roundings add up over layers, a mistake is far larger."""
_COARSE_TOLERANCE = 0.5
"""The same where one side has its rotary tables in bfloat16 (three digits), and logits reach 15 or 20."""


@dataclass(frozen=True, kw_only=True)
class ModelBenchConfig:
    """What is timed."""

    dialect: str = "current"
    depth: int = 4
    width: int = 256
    heads: int = 2
    vocab_size: int = 8192
    sequence_len: int = 512
    batch: int = 4
    decoded: int = 32
    """Tokens of a timed decoding, each after half a sequence and those before it."""
    rounds: int = 9
    compile: bool = False
    """Compile the training step of each side with torch.compile first; needs a C++ compiler on a CPU."""

    def __post_init__(self) -> None:
        DIALECTS.get(self.dialect)
        if (
            min(self.depth, self.width, self.heads, self.vocab_size, self.batch, self.decoded, self.rounds)
            < 1
        ):
            raise ConfigError("every size of the model's bench must be at least 1; raise the one that is not")
        if self.sequence_len // 2 + self.decoded > self.sequence_len:
            raise ConfigError(
                f"decoded tokens must fit the second half of sequence_len {self.sequence_len}, got {self.decoded}; "
                "lower it"
            )

    def shape(self) -> GPTConfig:
        """The model, with the windows that nanochat gives it by default where its dialect has windows."""
        windows = DIALECTS.get(self.dialect).short_window is not None
        return GPTConfig(
            dialect=self.dialect,
            sequence_len=self.sequence_len,
            vocab_size=self.vocab_size,
            n_layer=self.depth,
            n_head=self.heads,
            n_kv_head=self.heads,
            n_embd=self.width,
            window_pattern="SSSL" if windows else "L",
        )


class Side(Protocol):
    """One of the two that are timed."""

    model: torch.nn.Module
    lacks: str
    """Why it has no cache; empty where it has one."""
    coarse: bool
    """Whether its rotary tables are rounded."""

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats."""
        ...

    def logits(self, ids: Tensor, cache: Any, past: int) -> Tensor:
        """float32 (B, T, V) of tokens that follow `past` others in a cache; without a cache, of tokens alone."""
        ...

    def reserve(self, batch: int, room: int) -> Any:
        """An empty cache."""
        ...


class Ours:
    """Our GPT, given plain tokens."""

    lacks, coarse = "", False

    def __init__(self, model: GPT):
        self.model = model
        self.reserve = model.reserve

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(ids, None, 0)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def logits(self, ids: Tensor, cache: Any, past: int) -> Tensor:
        model, positions = self.model, torch.arange(past, past + ids.shape[1])[None]
        return model.unembed(model(model.embed(ids), positions, ids=ids, cache=cache))


Turn = Callable[[], float]
"""Does the work once and returns the seconds that it took; what comes before it is not counted."""


def bench_model(
    config: ModelBenchConfig, nanochat: Path | None, on_arm: Callable[[str], None]
) -> dict[str, Any]:
    """Rates in tokens per second, median, least and most; with a checkout its rates too, and the ratios of time.

    A ratio below 1 says that ours took less time. Giving `nanochat` runs that checkout's code. Raises ConfigError.
    """
    generator = torch.Generator().manual_seed(0)
    model = random_model(config.shape(), generator)
    ours = Ours(model)
    theirs = None if nanochat is None else Checkout(nanochat, model)
    ids = torch.randint(config.vocab_size, (config.batch, config.sequence_len), generator=generator)
    on_arm("checking logits")
    told: dict[str, Any] = {
        "config": dataclasses.asdict(config),
        "machine": {**machine(), "threads": torch.get_num_threads()},
        "checks": _checks(ours, theirs, ids),
        "arms": {},
    }
    if theirs is not None:
        told["nanochat_lacks"] = theirs.lacks
    half = config.sequence_len // 2
    arms: dict[str, tuple[int, Callable[[Side], Turn]]] = {
        "train": (ids.numel(), lambda side: _train(side, ids, config.compile)),
        "prefill": (config.batch * half, lambda side: _prefill(side, ids[:, :half], config.sequence_len)),
    }
    for rows in (1, 8):
        read = ids[:1, : half + config.decoded].repeat(rows, 1)
        arms[f"decode, rows {rows}"] = (
            rows * config.decoded,
            lambda side, read=read: _decode(side, read, half),
        )
    for name, (tokens, make) in arms.items():
        on_arm(name)
        cached = name != "train"
        other = None if theirs is None or (cached and theirs.lacks) else make(theirs)
        told["arms"][name] = _race(make(ours), other, tokens, config.rounds)
    return told


def random_model(shape: GPTConfig, generator: torch.Generator) -> GPT:
    """A model in which every parameter does something."""
    model = GPT(shape).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if parameter.ndim == 2 and not name.endswith("wte.weight"):
                parameter.div_(parameter.shape[1] ** 0.5)
    return model


@torch.inference_mode()
def _checks(ours: Side, theirs: Side | None, ids: Tensor) -> dict[str, float]:
    """Largest differences of logits between ways that must agree."""
    full = ours.logits(ids, None, 0)
    cache, third = ours.reserve(*ids.shape), ids.shape[1] // 3
    spans = [slice(0, third), slice(third, -1), slice(-1, None)]
    pieces = [ours.logits(ids[:, span], cache, cache.length) for span in spans]
    differences = {"cached_minus_full": (torch.cat(pieces, dim=1) - full).abs().max().item()}
    if theirs is not None:
        differences["nanochat_minus_ours"] = (theirs.logits(ids, None, 0) - full).abs().max().item()
    for name, difference in differences.items():
        coarse = theirs is not None and theirs.coarse and name == "nanochat_minus_ours"
        tolerance = _COARSE_TOLERANCE if coarse else _TOLERANCE
        if not difference <= tolerance:
            raise ConfigError(
                f"logits must agree to {tolerance:g} before anything is timed, {name} is {difference:.2g}; "
                "give the --dialect that the checkout speaks, or report it"
            )
    return differences


def _train(side: Side, ids: Tensor, compiled: bool) -> Turn:
    targets = ids.roll(-1, dims=1)
    loss = torch.compile(side.loss) if compiled else side.loss

    def turn() -> float:
        side.model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        loss(ids, targets).backward()
        return time.perf_counter() - start

    return turn


def _prefill(side: Side, ids: Tensor, room: int) -> Turn:
    @torch.inference_mode()
    def turn() -> float:
        start = time.perf_counter()
        side.logits(ids, side.reserve(len(ids), room), 0)
        return time.perf_counter() - start

    return turn


def _decode(side: Side, ids: Tensor, prompt: int) -> Turn:
    tokens = [token.contiguous() for token in ids[:, prompt:].split(1, dim=1)]

    @torch.inference_mode()
    def turn() -> float:
        cache = side.reserve(*ids.shape)
        side.logits(ids[:, :prompt], cache, 0)
        start = time.perf_counter()
        for at, token in enumerate(tokens):
            side.logits(token, cache, prompt + at)
        return time.perf_counter() - start

    return turn


def _race(ours: Turn, theirs: Turn | None, tokens: int, rounds: int) -> dict[str, float]:
    """Both once unseen, then in turns; who begins alternates."""
    sides = [ours] if theirs is None else [ours, theirs]
    for turn in sides:
        turn()
    seconds: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            seconds[side].append(sides[side]())
    told = spread("tokens_per_s", [tokens / taken for taken in seconds[0]])
    if theirs is not None:
        told |= spread("nanochat_tokens_per_s", [tokens / taken for taken in seconds[1]])
        told |= spread("time_over_nanochat", [own / other for own, other in zip(*seconds, strict=True)])
    return told
