"""Where a run's numbers go besides the telemetry: a file of JSON lines, always, and Weights & Biases if asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from megacontext.errors import BackendUnavailableError

NO_RUN = "dummy"
"""nanochat's name for a run that Weights & Biases is not told of."""


class Log(Protocol):
    """Takes numbers by name."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLog:
    """One JSON object a line, readable while the run goes on."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append one line."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")

    def close(self) -> None:
        self._file.close()


class WandbLog:
    """Weights & Biases, under nanochat's project name and its names for the numbers."""

    def __init__(self, run: str, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise BackendUnavailableError(
                f"logging run {run!r} to Weights & Biases needs the package wandb; "
                'install it with `pip install "megacontext[wandb]"`, or leave the run out'
            ) from None
        self._run = wandb.init(project="nanochat", name=run, config=dict(config))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send one set of numbers."""
        self._run.log({"step": step, **numbers})

    def close(self) -> None:
        self._run.finish()


def open_logs(folder: Path, run: str, config: Mapping[str, Any]) -> list[Log]:
    """The logs of a run: `log.jsonl` in its folder, and Weights & Biases unless `run` is empty or "dummy"."""
    # The one that may be refused comes first, so that nothing is left half open.
    remote: list[Log] = [] if run in ("", NO_RUN) else [WandbLog(run, config)]
    return [JsonLog(folder / "log.jsonl"), *remote]
