"""Attention over a pyramid against dense attention, flex_attention with the same mask, and a window of equal cost.

    python kernels/bench/attention.py --json > pyramid.json

One call measures all there is on the machine: every arm on a GPU, those that run on a CPU elsewhere, and it says which.
Each arm is held against the float64 reference before anything is timed; one that fails ends the run. A time is the
median of many calls, by the device's clock on a GPU. Lengths double; the slope is that of log time over log length.

    pyramid   our kernel: Triton on a GPU, PyTorch in pieces on a CPU; tokens and summaries both ask
    dense     scaled_dot_product_attention, causal, over the tokens alone
    flex      flex_attention, compiled, told the pyramid's mask; on a GPU
    window    our kernel with the sliding window that sees as many pairs

What a call does at least is counted (counting.py) and held against the device's measured ceilings.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# A checkout that was never installed has megakernels one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from counting import Work, slope, work_of
from device import ceilings, described, median_seconds

from megakernels.backends import choose
from megakernels.pyramid_attention import BACKENDS, Pyramid, chunked, reference
from megakernels.pyramid_attention.cost import equal_window, pairs_of, whole_sight
from megakernels.pyramid_attention.sight import Sight

CHECKED_TOKENS = (1, 31, 33, 1025)
RELATIVE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
LEAST_COSINE = 0.9999
GPU_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
CPU_LENGTHS = (512, 1024, 2048, 4096, 8192)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """What is measured at every length."""

    rule: Pyramid
    heads: int
    shared: int
    width: int
    dtype: torch.dtype
    device: torch.device
    rounds: int


@dataclass(frozen=True)
class Arm:
    """One way to attend, with what it reads at a length."""

    attend: Attend
    queries: int
    rows: int
    pairs: int

    def draw(self, shape: Shape) -> list[Tensor]:
        """Queries, keys and values."""
        chance = torch.Generator(shape.device).manual_seed(self.rows)
        sizes = (self.queries, shape.heads), (self.rows, shape.shared), (self.rows, shape.shared)
        return [
            torch.randn(
                1, count, heads, shape.width, device=shape.device, dtype=shape.dtype, generator=chance
            )
            for count, heads in sizes
        ]


def window_sight(window: int, tokens: int, device: torch.device) -> Sight:
    """Tokens ask, and see themselves and `window - 1` before."""
    stop = torch.arange(1, tokens + 1, device=device)
    runs = torch.stack(((stop - window).clamp_min(0), stop), dim=-1)[:, None]
    return Sight(runs[None], runs, levels=(tokens,), columns=(0,), asked=(tokens,))


def ours(shape: Shape) -> Callable[..., tuple[Tensor, Tensor]]:
    """Our kernel for that device."""
    if choose("auto", BACKENDS, torch.empty(0, device=shape.device)) == "triton":
        from megakernels.pyramid_attention.triton import attend

        return attend
    return chunked.attend


def arms_of(shape: Shape, tokens: int) -> dict[str, Arm]:
    """All that run on that device."""
    seen = whole_sight(shape.rule, tokens, shape.device)
    queries, rows, pairs = sum(seen.asked), sum(seen.levels), pairs_of(seen)
    near = window_sight(equal_window(pairs, tokens), tokens, shape.device)
    scale, attend = shape.width**-0.5, ours(shape)

    def by(attend: Callable[..., tuple[Tensor, Tensor]], what: Sight) -> Attend:
        return lambda q, k, v: attend(q, k, v, what, scale)[0]

    arms = {
        "pyramid": Arm(by(attend, seen), queries, rows, pairs),
        "dense": Arm(partial(_dense, scale=scale), tokens, tokens, tokens * (tokens + 1) // 2),
        "window": Arm(by(attend, near), tokens, tokens, pairs_of(near)),
    }
    if shape.device.type == "cuda":
        from megakernels.pyramid_attention.flex import attend as flex

        arms["flex"] = Arm(by(flex, seen), queries, rows, pairs)
    return arms


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    out = F.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2)


def check(shape: Shape, tokens: int) -> dict[str, dict[str, float]]:
    """Each arm against the reference in float64: largest relative error, least cosine of a gradient. Ends the run."""
    found = {}
    for name, arm in arms_of(shape, tokens).items():
        what = {
            "dense": window_sight(tokens, tokens, shape.device),
            "window": window_sight(equal_window(arm.pairs, tokens), tokens, shape.device),
        }.get(name, whole_sight(shape.rule, tokens, shape.device))
        inputs = arm.draw(shape)
        wanted, true_slopes = _both(
            lambda q, k, v, what=what: reference.attend(q, k, v, what, shape.width**-0.5)[0],
            [one.double() for one in inputs],
        )
        out, slopes = _both(arm.attend, inputs)
        error = ((out.double() - wanted).abs().max() / wanted.abs().max()).item()
        cosine = min(
            F.cosine_similarity(one.double().flatten(), other.flatten(), dim=0).item()
            for one, other in zip(slopes, true_slopes, strict=True)
            if other.norm() > 1e-9
        )
        if not (error <= RELATIVE[shape.dtype] and cosine >= LEAST_COSINE):
            sys.exit(
                f"nothing is timed that is not right: {name} over {tokens} tokens is off by {error:.2g} (at most "
                f"{RELATIVE[shape.dtype]:g}), its gradients' least cosine is {cosine:.5f} (at least {LEAST_COSINE}); "
                "report it"
            )
        found[name] = {"relative_error": error, "least_cosine": cosine}
    return found


def _both(attend: Attend, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Result, and gradients for one and the same weighing of it."""
    taken = [one.clone().requires_grad_() for one in inputs]
    out = attend(*taken)
    weigh = torch.sin(torch.arange(out.numel(), device=out.device, dtype=torch.float64)).view(out.shape)
    out.backward(weigh.to(out.dtype))
    return out.detach(), [one.grad for one in taken]


def measure(shape: Shape, tokens: int, ceiling: dict[str, float]) -> dict[str, Any]:
    """Seconds of each arm at one length, forward and forward with backward, with what it does at least."""
    told: dict[str, Any] = {}
    for name, arm in arms_of(shape, tokens).items():
        inputs = arm.draw(shape)

        def forward(arm: Arm = arm, inputs: list[Tensor] = inputs) -> Tensor:
            with torch.no_grad():
                return arm.attend(*inputs)

        learning = [one.clone().requires_grad_() for one in inputs]
        weigh = torch.ones_like(forward())

        def both(arm: Arm = arm, learning: list[Tensor] = learning, weigh: Tensor = weigh) -> None:
            for one in learning:
                one.grad = None
            arm.attend(*learning).backward(weigh)

        told[name] = {"pairs": arm.pairs}
        for what, run, backward in (("forward", forward, False), ("forward_backward", both, True)):
            work = work_of(
                arm.pairs, arm.queries, arm.rows, heads=shape.heads, shared=shape.shared, width=shape.width,
                item_bytes=inputs[0].element_size(), backward=backward,
            )  # fmt: skip
            told[name][what] = _row(work, median_seconds(run, shape.device, shape.rounds), ceiling)
    return told


def _row(work: Work, seconds: float, ceiling: dict[str, float]) -> dict[str, float]:
    least = max(work.flops / ceiling["flops_per_s"], work.bytes / ceiling["bytes_per_s"])
    return {
        "seconds": seconds, "flops": work.flops, "bytes": work.bytes, "flops_per_s": work.flops / seconds,
        "share_of_ceiling": least / seconds,
    }  # fmt: skip


def judged(lengths: dict[int, dict[str, Any]], slopes: dict[str, float]) -> dict[str, Any]:
    """What is asked of the kernel on a GPU, and whether this run shows it; None where it did not look."""

    def times(tokens: int, arm: str) -> float:
        here = lengths[tokens]
        return here[arm]["forward"]["seconds"] / here["pyramid"]["forward"]["seconds"]

    long = [tokens for tokens in lengths if tokens >= 8192]
    return {
        "at least 4 x dense at 65,536 tokens": times(65536, "dense") >= 4 if 65536 in lengths else None,
        "not slower than dense from 8,192 on": all(times(one, "dense") >= 1 for one in long)
        if long
        else None,
        "not slower than flex from 8,192 on": all(times(one, "flex") >= 1 for one in long) if long else None,
        "slope at most 1.25": None if math.isnan(slopes["pyramid"]) else slopes["pyramid"] <= 1.25,
    }


def bench(shape: Shape, lengths: list[int], on_step: Callable[[str], None]) -> dict[str, Any]:
    """All of it, as plain values."""
    on_step("checking against the float64 reference")
    checks = {tokens: check(shape, tokens) for tokens in CHECKED_TOKENS}
    on_step("measuring the device's ceilings")
    ceiling = ceilings(shape.device, shape.dtype, shape.rounds)
    found = {}
    for tokens in lengths:
        on_step(f"{tokens:,} tokens")
        found[tokens] = measure(shape, tokens, ceiling)
    slopes = {
        arm: slope(lengths, [found[tokens][arm]["forward"]["seconds"] for tokens in lengths])
        for arm in found[lengths[0]]
    }
    on_gpu = shape.device.type == "cuda"
    return {
        "device": described(shape.device),
        "note": "" if on_gpu else "no GPU was seen: these are the arms that run on a CPU, and no claim about a GPU",
        "shape": {
            "window": shape.rule.window, "block": shape.rule.block, "spans": list(shape.rule.spans),
            "heads": shape.heads, "kv_heads": shape.shared, "width": shape.width, "dtype": str(shape.dtype),
            "rounds": shape.rounds,
        },
        "checks": checks,
        "ceilings": ceiling,
        "lengths": found,
        "slopes": slopes,
        "judged": judged(found, slopes) if on_gpu else {},
    }  # fmt: skip


def table(told: dict[str, Any]) -> str:
    """For people."""
    lines = [", ".join(f"{name} {value}" for name, value in told["device"].items())]
    lines += [told["note"]] if told["note"] else []
    lines.append(
        f"{'tokens':>8} {'arm':8} {'forward':>12} {'with backward':>14} {'of ceiling':>11} {'x dense':>8}"
    )
    for tokens, arms in told["lengths"].items():
        for name, arm in arms.items():
            forward, both = arm["forward"], arm["forward_backward"]
            faster = arms["dense"]["forward"]["seconds"] / forward["seconds"]
            lines.append(
                f"{tokens:8,} {name:8} {forward['seconds'] * 1e3:9.3f} ms {both['seconds'] * 1e3:11.3f} ms "
                f"{forward['share_of_ceiling']:10.0%} {faster:8.2f}"
            )
    lines.append("slopes: " + ", ".join(f"{arm} {value:.2f}" for arm, value in told["slopes"].items()))
    lines += [
        f"{claim}: {'not looked at' if held is None else held}" for claim, held in told["judged"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=list(GPU_LENGTHS if on_gpu else CPU_LENGTHS))
    parser.add_argument("--heads", type=int, default=16 if on_gpu else 2)
    parser.add_argument("--kv-heads", type=int, default=16 if on_gpu else 2)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16" if on_gpu else "float32"
    )
    parser.add_argument(
        "--rounds", type=int, default=50 if on_gpu else 7, help="calls that a median is taken over"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    shape = Shape(
        rule=Pyramid(), heads=given.heads, shared=given.kv_heads, width=given.width,
        dtype=getattr(torch, given.dtype), device=torch.device("cuda", 0) if on_gpu else torch.device("cpu"),
        rounds=given.rounds,
    )  # fmt: skip
    told = bench(shape, sorted(given.tokens), lambda step: print(f"bench attention: {step}", file=sys.stderr))
    print(json.dumps(told, indent=2) if given.json else table(told))


if __name__ == "__main__":
    main()
