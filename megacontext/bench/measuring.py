"""What every benchmark measures with: a figure with its spread, a timed call, memory of a process of its own.

Imports nothing heavy, so that a process whose memory is measured may use it too.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
KNOWS_MEMORY = _STATUS.exists()
"""Whether this system tells what a process holds."""


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def held_kib() -> dict[str, int]:
    """KiB of this process: of its own (RssAnon), of files that it has mapped (RssFile), the most so far (VmHWM)."""
    rows = [line.split() for line in _STATUS.read_text().splitlines()]
    return {row[0][:-1]: int(row[1]) for row in rows if row[0] in ("RssAnon:", "RssFile:", "VmHWM:")}


def run_apart(code: str, *arguments: str) -> dict[str, Any]:
    """Run Python `code` in a process of its own and return the JSON object that it prints."""
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(finished.stdout)
