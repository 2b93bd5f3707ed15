"""From the windows of a language measurement to its tables.

Differences are paired by window. Windows of one segment are no independent samples, so standard errors are over the
segments' means. Figures are kept as numbers; `tables` holds the same as text, for whoever shows them.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import polars as pl

from megacontext.evals.clustered import clustered_mean, with_error
from megacontext.evals.delta_tables import CLAIM, LEAST_HEADROOM

FULL, DROP, MEAN = "full", "drop", "mean-cache"
_COMPARED = {
    "minus_drop": ("drop", "minus drop"),
    "minus_mean_cache": ("mean-cache", "minus mean-cache"),
    "minus_full": ("full", "minus full"),
    "minus_near": ("near-{}", "minus recent for far"),
    "minus_far_mean": ("far-mean-{}", "minus mean for far"),
}
_WRONG = {
    "wrong_minus_right": ("wrong-{}", "wrong minus right"),
    "far_wrong_minus_right": ("far-wrong-{}", "far wrong minus right"),
}


class Measured(Protocol):
    """What is read of the configuration."""

    genre: str
    distant_blocks: int
    distant_parents: int


def language_tables(frame: pl.DataFrame, config: Measured) -> dict[str, Any]:
    """Each arm's loss, its difference from `drop`, and the comparisons that gists are judged by."""
    arms = [name for name in frame.columns if frame[name].dtype == pl.Float64]
    by_segment = frame.group_by("segment", maintain_order=True).agg(pl.col(arms).mean())
    losses = {arm: by_segment[arm].to_numpy() for arm in arms}
    headroom = losses[DROP] - losses[FULL] if FULL in losses else None
    results: dict[str, Any] = {
        "genre": config.genre,
        "windows": frame.height,
        "segments": by_segment.height,
        "gists_per_window": config.distant_blocks + config.distant_parents,
        "parents_per_window": config.distant_parents,
        "headroom": None if headroom is None else _of(headroom),
        "readable": None if headroom is None else bool(headroom.mean() >= LEAST_HEADROOM),
        "arms": [
            {"arm": arm, "nats": float(losses[arm].mean()), **_of(losses[arm] - losses[DROP])} for arm in arms
        ],
        "compared": [row for kind in ("gist", "constant") for row in _compared(kind, losses, headroom)],
    }
    return results | {"sentences": _sentences(results), "tables": _shown(results)}


def _compared(kind: str, losses: dict[str, np.ndarray], headroom: np.ndarray | None) -> list[dict[str, Any]]:
    """One row a net of that kind, and one for the mean of its seeds."""
    names = [arm for arm in losses if arm.startswith(f"{kind}-")]
    groups = {name: [name] for name in names}
    if len(names) > 1:
        groups[f"{kind}, mean of {len(names)} seeds"] = names

    def mean(members: list[str], arm: str) -> np.ndarray | None:
        found = [losses.get(arm.format(name)) for name in members]
        return None if any(one is None for one in found) else np.mean(found, axis=0)

    rows = []
    for title, members in groups.items():
        own = np.mean([losses[name] for name in members], axis=0)
        row: dict[str, Any] = {"arm": title}
        for key, (arm, _) in _COMPARED.items():
            if (other := mean(members, arm)) is not None:
                row[key] = _of(own - other)
        for key, (arm, _) in _WRONG.items():
            if (other := mean(members, arm)) is not None:
                row[key] = _of(other - own)
        if headroom is not None:
            row["of_headroom"] = float((losses[DROP] - own).mean() / headroom.mean())
        rows.append(row)
    return rows


def _of(gaps: np.ndarray) -> dict[str, float | None]:
    """Mean of the segments' paired differences (S,), its standard error and interval."""
    return clustered_mean(gaps, np.arange(len(gaps))).numbers()


def _signed(difference: dict[str, Any]) -> str:
    return with_error(difference, digits=4)


def _sentences(results: dict[str, Any]) -> list[str]:
    said = [
        f"{results['genre']}: {results['windows']} windows of {results['segments']} segments, "
        f"{results['gists_per_window']} gists each, {results['parents_per_window']} of them gists of gists; headroom "
        + (
            "not measured."
            if results["headroom"] is None
            else f"{_signed(results['headroom'])} nats a token."
        )
    ]
    if results["readable"] is False:
        said.append("There is too little headroom for the figures to mean anything.")
    if results["windows"] < CLAIM:
        said.append(f"A small sample: a claim needs {CLAIM} windows.")
    return said


def _shown(results: dict[str, Any]) -> list[dict[str, Any]]:
    tables = [
        {
            "title": "Arms",
            "note": "Nats a token; differences are paired by window, standard errors over segments.",
            "columns": ["arm", "nats a token", "minus drop"],
            "rows": [[row["arm"], f"{row['nats']:.4f}", _signed(row)] for row in results["arms"]],
        }
    ]
    keys = [key for key in (*_COMPARED, *_WRONG) if any(key in row for row in results["compared"])]
    names = {key: name for key, (_, name) in (_COMPARED | _WRONG).items()}
    if results["compared"]:
        tables.append(
            {
                "title": "Comparisons",
                "note": "Of headroom: drop minus the arm, over drop minus full.",
                "columns": ["gists", *(names[key] for key in keys), "of headroom"],
                "rows": [
                    [
                        row["arm"],
                        *(_signed(row[key]) if key in row else "" for key in keys),
                        f"{row['of_headroom']:.0%}" if "of_headroom" in row else "",
                    ]
                    for row in results["compared"]
                ],
            }
        )
    return tables
