"""From scored windows to the tables of delta-NLL: what each arm loses, and the comparisons that gists are judged by.

Where several models of as many positions were measured, their mean by window stands beside them, as if it were one
more: its error is over segments too, so it says how sure the windows make us, and the models one by one how far seeds
differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from megacontext.evals.clustered import clustered_mean, with_error

LEAST_HEADROOM = 0.1
"""Nats a token; below it no figure of gists is read."""
CLAIM = 200
"""Windows of a cell that a claim needs."""
ARMS = ("full", "gists", "mean", "wrong", "elsewhere", "drop", "none")
MEAN_OF = "mean of {}"
_JUDGED = (
    ("gists_minus_drop", "drop", -1),
    ("gists_minus_mean", "the mean", -1),
    ("wrong_minus_gists", "gists of a wrong document", 1),
)
"""Comparisons that gists are to win, and the sign of a win."""


def delta_results(frame: pl.DataFrame, horizons: Sequence[int]) -> dict[str, Any]:
    """What results.json says of rows with cell, model, segment, positions and a column for each arm and horizon."""
    cells = [
        _cell(part, model, horizon)
        for name in frame["cell"].unique(maintain_order=True)
        for model, part in _models(frame.filter(pl.col("cell") == name))
        for horizon in horizons
        if _measured(part, f"full_{horizon}")
    ]
    return {
        "cells": cells,
        "sentences": [_sentence(cell) for cell in cells if cell["horizon"] == max(horizons)],
        "tables": [_losses(cells, max(horizons)), _comparisons(cells)],
    }


def _models(part: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Each model's rows of a cell, and the mean of all where they took as many positions."""
    models = part["model"].unique(maintain_order=True).to_list()
    for model in models:
        yield model, part.filter(pl.col("model") == model)
    if len(models) > 1 and part["positions"].n_unique() == 1:
        keys = ["cell", "genre", "lod", "distance", "positions", "document", "segment", "start"]
        scores = [name for name in part.columns if part[name].dtype == pl.Float64]
        yield (
            MEAN_OF.format(len(models)),
            part.group_by(keys, maintain_order=True).agg(pl.col(scores).mean()),
        )


def _measured(part: pl.DataFrame, column: str) -> bool:
    """Whether any window has this figure: answers have it at the longest horizon alone."""
    return column in part.columns and part[column].null_count() < part.height


def _cell(part: pl.DataFrame, model: str, horizon: int) -> dict[str, Any]:
    """One model in one cell at one horizon."""
    segments = part["segment"].to_numpy()
    nats = {
        arm: part[name].to_numpy().astype(float)
        for arm in ARMS
        if _measured(part, name := f"{arm}_{horizon}")
    }

    def difference(first: str, second: str) -> dict[str, Any]:
        gap = nats[first] - nats[second]
        known = ~np.isnan(gap)
        return clustered_mean(gap[known], segments[known]).numbers()

    headroom = difference("drop", "full")
    compared = {
        "gists_minus_drop": difference("gists", "drop"),
        "gists_minus_mean": difference("gists", "mean"),
        "wrong_minus_gists": difference("wrong", "gists"),
    }
    if "elsewhere" in nats:
        compared["elsewhere_minus_gists"] = difference("elsewhere", "gists")
    about = part.row(0, named=True)
    return {
        **{key: about[key] for key in ("cell", "genre", "lod", "distance", "positions")},
        "model": model,
        "horizon": horizon,
        "windows": part.height,
        "segments": len(np.unique(segments)),
        "arms": {
            arm: {"nats": float(np.nanmean(lost)), "windows": int((~np.isnan(lost)).sum())}
            | {f"minus_{other}": difference(arm, other) for other in ("full", "drop")}
            for arm, lost in nats.items()
        },
        "headroom": headroom,
        "readable": headroom["mean"] >= LEAST_HEADROOM,
        "of_headroom": -compared["gists_minus_drop"]["mean"] / headroom["mean"]
        if headroom["mean"] > 0
        else None,
        **compared,
    }


def _losses(cells: list[dict[str, Any]], horizon: int) -> dict[str, Any]:
    rows = []
    for cell in cells:
        if cell["horizon"] != horizon:
            continue
        for arm, lost in cell["arms"].items():
            positions = {"full": "all", "none": "0"}.get(arm, str(cell["positions"]))
            rows.append([
                cell["cell"], cell["model"], arm, positions, str(lost["windows"]), f"{lost['nats']:.4f}",
                "" if arm == "full" else with_error(lost["minus_full"]),
                "" if arm == "drop" else with_error(lost["minus_drop"]),
                "" if arm == "drop" else _interval(lost["minus_drop"]),
            ])  # fmt: skip
    return {
        "title": f"Delta-NLL over the next {horizon} tokens",
        "note": "Nats a token. Minus full: delta-NLL. Minus drop: against as many recent tokens. ± is a standard "
        "error over segments of 2,048 tokens.",
        "columns": ["cell", "model", "arm", "positions", "n", "nats", "minus full", "minus drop", "95 %"],
        "rows": rows,
    }


def _comparisons(cells: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("gists_minus_drop", "gists_minus_mean", "wrong_minus_gists", "elsewhere_minus_gists")
    return {
        "title": "What gists are judged by",
        "note": "In standard errors: z. Headroom (drop minus full) below "
        f"{LEAST_HEADROOM} nats leaves nothing to read. Of headroom: the share of it that gists recover.",
        "columns": ["cell", "model", "H", "n", "headroom", "read", "gists - drop", "z", "gists - mean", "z",
                    "wrong - gists", "z", "elsewhere - gists", "z", "of headroom"],
        "rows": [
            [cell["cell"], cell["model"], str(cell["horizon"]), str(cell["windows"]), with_error(cell["headroom"]),
             "yes" if cell["readable"] else "no",
             *(shown for name in names
               for shown in ((with_error(cell[name]), f"{cell[name]['z']:.1f}") if name in cell else ("–", "–"))),
             f"{cell['of_headroom']:.0%}" if cell["readable"] and cell["of_headroom"] is not None else "–"]
            for cell in cells
        ],
    }  # fmt: skip


def _sentence(cell: dict[str, Any]) -> str:
    where = f"{cell['cell']}, {cell['model']}"
    headroom = cell["headroom"]["mean"]
    if not cell["readable"]:
        return (
            f"{where}: the headroom is {headroom:.3f} nats a token, below {LEAST_HEADROOM}; no figure of its gists "
            "means anything."
        )
    judged = [(what, cell[name], sign * cell[name]["z"] > 3) for name, what, sign in _JUDGED]
    held = [
        f"{what} by {abs(gap['mean']):.3f} nats ({abs(gap['z']):.1f} standard errors)"
        for what, gap, beaten in judged
        if beaten
    ]
    failed = [f"{what} ({gap['mean']:+.3f}, z {gap['z']:.1f})" for what, gap, beaten in judged if not beaten]
    smoke = "" if cell["windows"] >= CLAIM else f" A smoke test: a claim needs {CLAIM} windows."
    said = [f"beat {', '.join(held)}"] if held else []
    said += [f"do not beat {', '.join(failed)}"] if failed else []
    return (
        f"{where}: {cell['positions']} positions of gists {' and '.join(said)}; {cell['of_headroom']:.0%} of a "
        f"headroom of {headroom:.3f} nats a token.{smoke}"
    )


def _interval(difference: dict[str, Any]) -> str:
    return "–" if difference["low"] is None else f"{difference['low']:+.3f} to {difference['high']:+.3f}"
