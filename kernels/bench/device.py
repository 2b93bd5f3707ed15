"""The device that is measured: its name, the versions, its clock, and its ceilings as measured, not as sold."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_FLUSHED_BYTES = 2**28
"""Written before each timed call on a GPU, so that nothing is found in its cache (50 MB on an H100)."""


def described(device: torch.device) -> dict[str, object]:
    """Name, memory and versions."""
    told: dict[str, object] = {"device": str(device), "system": platform.platform()}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        told |= {
            "name": found.name,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    else:
        told |= {"name": _processor(), "threads": torch.get_num_threads()}
    for package in ("torch", "triton"):
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            told[package] = None
    return told


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def median_seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median of many calls after a few unseen ones, by the device's own clock on a GPU."""
    for _ in range(3):
        work()
    if device.type != "cuda":
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)
    flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.int8, device=device)
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for before, after in marks:
        flushed.zero_()
        before.record()
        work()
        after.record()
    torch.cuda.synchronize(device)
    return statistics.median(before.elapsed_time(after) / 1e3 for before, after in marks)


def ceilings(device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """FLOPs a second of one large product of matrices, and bytes a second of one large copy."""
    size, count = (8192, 2**29) if device.type == "cuda" else (1024, 2**25)
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = median_seconds(lambda: one @ other, device, rounds)
    source = torch.ones(count, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    copy = median_seconds(lambda: target.copy_(source), device, rounds)
    return {"flops_per_s": 2 * size**3 / product, "bytes_per_s": 2 * count / copy}
