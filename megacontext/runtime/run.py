"""The folder of a run: recipe, state, telemetry, results. Whoever looks at a run reads these files and nothing else.

    recipe.toml     the resolved recipe
    run.json        what runs, since when, on what, and whether it still lives (a heartbeat every few seconds)
    telemetry/      parquet parts per kind of event, readable while the run goes on
    answers.jsonl   one line per answer
    results.json    the tables, written at the end

Every file is written whole and renamed into place, or appended line by line, so an interrupted run stays readable.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from megacontext.config import dump_recipe, fingerprint
from megacontext.errors import ConfigError
from megacontext.telemetry import TelemetryWriter

RUN_FORMAT = 1
_HEARTBEAT_SECONDS = 5.0
_REPORTED_PACKAGES = ("megacontext", "torch", "numpy", "lmdb", "polars", "tiktoken", "rustbpe")


class RunFolder:
    """A run being written. A context manager: leaving it notes how the run ended."""

    def __init__(self, path: Path, config: Any, about: Mapping[str, Any]):
        self.path = path
        self.telemetry: TelemetryWriter
        self._config = config
        self._about = dict(about)
        self._lines: TextIO
        self._stop = threading.Event()
        self._heart: threading.Thread
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls, runs: Path, name: str | None, config: Any, *, kind: str, seed: int, **about: Any
    ) -> RunFolder:
        """A new run folder in `runs`: `name`, which must be free, or the first free of kind, kind-2, kind-3, ...

        `about` goes into run.json. Raises ConfigError when the folder exists or cannot be made.
        """
        if name is not None and (not name or name.startswith(".") or Path(name).name != name):
            raise ConfigError(
                f"a run's name must be one plain folder name, got {name!r}; drop slashes and leading dots"
            )
        number = 1
        while True:
            chosen = name or (kind if number == 1 else f"{kind}-{number}")
            try:
                (runs / chosen).mkdir(parents=True)
                break
            except FileExistsError:
                if name is not None or not (runs / chosen).is_dir():
                    raise ConfigError(
                        f"a new run needs a free folder, {runs / chosen} exists; choose another --name or delete it"
                    ) from None
                number += 1
            except OSError as problem:
                raise ConfigError(
                    f"the run folder {runs / chosen} cannot be made ({problem.strerror})"
                ) from None
        described = {
            "format": RUN_FORMAT,
            "name": chosen,
            "kind": kind,
            "status": "running",
            "pid": os.getpid(),
            "started": _now(),
            "finished": None,
            "heartbeat": _now(),
            "seed": seed,
            "recipe_fingerprint": fingerprint(config),
            **environment(),
            "message": "",
        }
        return cls(runs / chosen, config, described | about)

    @classmethod
    def reopen(cls, path: Path, config: Any) -> RunFolder:
        """A run that goes on in its folder. Raises ConfigError if there is none, or it has another recipe."""
        try:
            about = json.loads((path / "run.json").read_text(encoding="utf-8"))
            recipe, version = about["recipe_fingerprint"], about["format"]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise ConfigError(
                f"a run that goes on must be a run's folder, {path} is not ({problem}); check the path"
            ) from None
        if version != RUN_FORMAT or recipe != fingerprint(config):
            raise ConfigError(
                f"a run goes on with its own recipe, {path} has {recipe} (format {version}), got "
                f"{fingerprint(config)} (format {RUN_FORMAT}); use the recipe.toml in its folder"
            )
        return cls(path, config, about | {"status": "running", "pid": os.getpid(), "finished": None})

    def __enter__(self) -> RunFolder:
        dump_recipe(self._config, self.path / "recipe.toml")
        self._write_state()
        self.telemetry = TelemetryWriter(self.path / "telemetry")
        self._lines = (self.path / "answers.jsonl").open("a", encoding="utf-8")
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        self._lines.close()
        self.telemetry.close()
        status = "done" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed"
        self._about |= {"status": status, "finished": _now(), "message": "" if error is None else str(error)}
        self._write_state()

    def note(self, **about: Any) -> None:
        """Add to run.json."""
        self._about |= about
        self._write_state()

    def answer(self, line: Mapping[str, Any]) -> None:
        """Append one line to answers.jsonl."""
        self._lines.write(json.dumps(line, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Make everything recorded so far readable."""
        self._lines.flush()
        self.telemetry.flush()

    def results(self, results: Mapping[str, Any]) -> None:
        """Write results.json."""
        write_json(self.path / "results.json", results)

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            self._write_state()

    def _write_state(self) -> None:
        with self._lock:
            write_json(self.path / "run.json", self._about | {"heartbeat": _now()})


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document`, replacing `path` only when all of it is on disk."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


def environment() -> dict[str, Any]:
    """Device, and the versions that matter, as run.json holds them."""
    return {
        "device": f"CPU, {os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in _REPORTED_PACKAGES},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
