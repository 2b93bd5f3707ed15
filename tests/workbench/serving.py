"""A workbench in a process of its own, as a user has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVE = """
import sys
from workbench.server import serve
from workbench.stores.library import Library
serve(Library(sys.argv[1]), port=0, on_ready=lambda url: print(url, flush=True))
"""


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python program in a process of its own, with our packages."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip


class Served:
    """A workbench in a process of its own, as a user has it."""

    def __init__(self, folder: Path):
        self.process = started(SERVE, str(folder))
        self.folder = folder
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.process.stderr.read()

    def stop(self, with_signal: int = signal.SIGINT) -> tuple[int, str]:
        """Exit code and what was said on standard error."""
        self.process.send_signal(with_signal)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said
