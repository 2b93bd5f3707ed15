"""The runs of a folder as one table: state, particulars, and the few figures that tell them apart.

What a run wrote last is enough for its line: run.json, results.json, and the newest part of its telemetry of training
and of validation. A file is read again only when it has become another one, so a folder of hundreds of runs costs two
looks at the disk a run. Deliberately ignorant of curves, and of everything that takes reading a whole run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megacontext.errors import MegaContextError
from megacontext.telemetry.reader import newest_rows
from workbench.stores.runs import RunInfo, json_object, read_info

Stamp = tuple[int, int] | None

LEADING_ARMS = ("lensnet", "lensnet+bm25")
"""Whose score stands for a run; else that of its best arm but the ceiling."""
CEILING = "oracle"
SORTABLE = ("name", "state", "kind", "started", "took_s", "score", "loss_nats", "bits_per_byte", "step")


@dataclass(frozen=True, kw_only=True)
class CatalogueRow:
    """One run. Figures are None where the run has none."""

    name: str
    state: str
    kind: str = ""
    started: datetime | None = None
    took_s: float | None = None
    """From start to end, or to the last sign of life; seconds."""
    said: str = ""
    """Its first conclusion; of a run that failed what it failed by; of one that cannot be read why."""
    recipe: str = ""
    """Fingerprint of the recipe."""
    score: float | None = None
    """Share right of the leading arm in the first group of histories, 0..1."""
    score_of: str = ""
    """That arm, its group and the number of questions."""
    loss_nats: float | None = None
    """The last loss that was minimised."""
    bits_per_byte: float | None = None
    """The last of validation."""
    step: int | None = None
    """The last training step recorded."""


class Catalogue:
    """One per folder, shared by pages."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._infos: dict[str, tuple[Stamp, RunInfo | MegaContextError]] = {}
        self._found: dict[str, tuple[tuple[Stamp, ...], dict[str, Any]]] = {}

    def rows(self) -> list[CatalogueRow]:
        """Every run as of now, the newest first; none where there is no folder."""
        try:
            paths = sorted(path for path in self.folder.iterdir() if (path / "run.json").is_file())
        except OSError:
            return []
        names = {path.name for path in paths}
        for known in (self._infos, self._found):
            for name in known.keys() - names:
                del known[name]
        now, oldest = datetime.now(UTC), datetime.min.replace(tzinfo=UTC)
        rows = [self._row(path, now) for path in paths]
        return sorted(rows, key=lambda row: (row.started or oldest, row.name), reverse=True)

    def _row(self, path: Path, now: datetime) -> CatalogueRow:
        info = self._info(path)
        if isinstance(info, MegaContextError):
            return CatalogueRow(name=path.name, state="damaged", said=str(info))
        state = info.state(now)
        end = info.finished or (now if state == "running" else info.heartbeat)
        took_s = (end - info.started).total_seconds() if info.started and end else None
        figures = self._figures(path)
        return CatalogueRow(
            name=path.name, state=state, kind=info.kind, started=info.started,
            # Whole seconds: a line that changes twice a second says nothing more.
            took_s=None if took_s is None else float(math.floor(took_s)),
            recipe=str(info.raw.get("recipe_fingerprint") or ""),
            **(figures | {"said": info.message or figures["said"]}),
        )  # fmt: skip

    def _info(self, path: Path) -> RunInfo | MegaContextError:
        stamp, known = _stamp(path / "run.json"), self._infos.get(path.name)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            info: RunInfo | MegaContextError = read_info(path)
        except MegaContextError as problem:
            info = problem
        self._infos[path.name] = (stamp, info)
        return info

    def _figures(self, path: Path) -> dict[str, Any]:
        folders = [path / "telemetry" / kind for kind in ("train", "validation")]
        stamps = tuple(_stamp(one) for one in (path / "results.json", *folders))
        known = self._found.get(path.name)
        if known is not None and known[0] == stamps:
            return known[1]
        found = _last_figures(path)
        try:
            results = json_object(path / "results.json", "results must be readable") or {}
            found |= _score(results) | {"said": next(iter(map(str, results.get("sentences") or [])), "")}
        except (MegaContextError, AttributeError, TypeError) as problem:
            # One file of a run that is otherwise well: said in its line, while its other figures stand.
            found["said"] = str(problem)
        self._found[path.name] = (stamps, found)
        return found


def sorted_rows(rows: Sequence[CatalogueRow], order: str) -> list[CatalogueRow]:
    """By a column of SORTABLE, behind a minus for descending; as they are for any other. What is unknown comes last."""
    name = order.removeprefix("-")
    if name not in SORTABLE:
        return list(rows)
    known = [row for row in rows if getattr(row, name) not in (None, "")]
    rest = [row for row in rows if getattr(row, name) in (None, "")]
    return sorted(known, key=lambda row: getattr(row, name), reverse=order.startswith("-")) + rest


def _last_figures(path: Path) -> dict[str, Any]:
    """From the newest rows of telemetry; a part that cannot be read gives no figure, the run itself will say why."""
    found: dict[str, Any] = {"loss_nats": None, "bits_per_byte": None, "step": None}
    for kind, columns in (("train", ("loss_nats", "step")), ("validation", ("bits_per_byte",))):
        try:
            rows = newest_rows(path / "telemetry", kind)
        except MegaContextError:
            continue
        for column in columns:
            values = rows[column].drop_nulls()
            if len(values):
                found[column] = values[-1]
    if found["loss_nats"] is not None and not math.isfinite(found["loss_nats"]):
        found["loss_nats"] = None
    return found


def _score(results: dict[str, Any]) -> dict[str, Any]:
    rows = [row for row in results.get("rows") or [] if isinstance(row.get("accuracy"), (int, float))]
    first = [row for row in rows if row.get("history") == rows[0].get("history")]
    leader = next((row for arm in LEADING_ARMS for row in first if row.get("arm") == arm), None)
    others = [row for row in first if row.get("arm") != CEILING]
    leader = leader or max(others, key=lambda row: row["accuracy"], default=None)
    if leader is None:
        return {"score": None, "score_of": ""}
    return {
        "score": float(leader["accuracy"]),
        "score_of": f"{leader.get('arm')}, {leader.get('history')}, n {leader.get('n')}",
    }


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
