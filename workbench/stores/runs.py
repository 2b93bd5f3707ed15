"""What run.json says of a run, and which runs a folder holds.

A run that says it is running is believed only as long as its process exists and its heartbeat is fresh. Deliberately
ignorant of what a run has measured; that is the store's business.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError, MegaContextError

FORMAT = 1
"""Version of run.json that this code reads."""

DEAD_AFTER_S = 30.0
"""A running run whose heartbeat is older than this is taken for dead."""

STATUSES = ("running", "done", "failed", "interrupted", "dead")


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What run.json says, with its times parsed."""

    name: str
    kind: str
    status: str
    pid: int | None
    started: datetime | None
    finished: datetime | None
    heartbeat: datetime | None
    message: str
    budget_positions: int | None
    raw: dict[str, Any]
    """Everything in the file, as it stands there."""

    def state(self, now: datetime | None = None) -> str:
        """One of STATUSES: `dead` for a run that says it is running while nobody runs it."""
        if self.status != "running":
            return self.status
        age_s = ((now or datetime.now(UTC)) - self.heartbeat).total_seconds() if self.heartbeat else 0.0
        return "dead" if age_s > DEAD_AFTER_S or not _alive(self.pid) else "running"


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One line of a list of runs. `problem` is the sentence about a folder that cannot be read, else empty."""

    name: str
    path: Path
    state: str
    started: datetime | None
    problem: str = ""


def list_runs(folder: str | Path) -> list[RunSummary]:
    """Runs in a folder, the newest first; folders without run.json are none. Empty where there is no folder."""
    runs = []
    try:
        paths = sorted(path for path in Path(folder).iterdir() if (path / "run.json").is_file())
    except OSError:
        return []
    for path in paths:
        try:
            info = read_info(path)
            runs.append(RunSummary(name=path.name, path=path, state=info.state(), started=info.started))
        except MegaContextError as problem:
            runs.append(
                RunSummary(name=path.name, path=path, state="damaged", started=None, problem=str(problem))
            )
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(runs, key=lambda run: run.started or oldest, reverse=True)


def read_info(path: Path) -> RunInfo:
    """run.json of the run in `path`. Raises ConfigError where it is absent, damaged, foreign or newer."""
    content = json_object(path / "run.json", "a run folder must hold a readable run.json")
    if content is None:
        raise ConfigError(
            f"a run folder must hold run.json, {path} has none; name a folder that a run has made"
        )
    version = content.get("format")
    if not isinstance(version, int):
        raise ConfigError(
            f"run.json must say its format, {path} says {version!r}; name a folder that a run has made"
        )
    if version > FORMAT:
        raise ConfigError(
            f"this version reads runs up to format {FORMAT}, {path} has {version}; update MegaContext"
        )
    status = content.get("status")
    if status not in STATUSES:
        raise ConfigError(
            f"a run's status must be one of {', '.join(STATUSES)}, {path} says {status!r}; run it again"
        )
    pid, budget = content.get("pid"), content.get("budget_positions")
    return RunInfo(
        name=path.name,
        kind=str(content.get("kind") or "demo"),
        status=status,
        pid=pid if isinstance(pid, int) else None,
        started=_time(content.get("started")),
        finished=_time(content.get("finished")),
        heartbeat=_time(content.get("heartbeat")),
        message=str(content.get("message") or ""),
        budget_positions=budget if isinstance(budget, int) else None,
        raw=content,
    )


def json_object(path: Path, rule: str) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file. `rule` begins the sentence of the ConfigError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{rule}, {path} is not ({problem}); remove it or run again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{rule}, {path} holds no JSON object; remove it or run again")
    return content


def _alive(pid: int | None) -> bool:
    """Whether a process of that number exists. Without a number nothing is known, and the heartbeat decides."""
    if pid is None or pid <= 0:
        return pid is None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _time(text: object) -> datetime | None:
    """An ISO 8601 time, taken for UTC where it names no zone; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
