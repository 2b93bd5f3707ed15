"""Several runs beside one another: opened by name, what their recipes differ in, and their curves as one frame.

A run that cannot be opened does not keep the others from being compared: its sentence stands in `problems`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from megacontext.errors import MegaContextError
from workbench.stores.curves import RunCurves
from workbench.stores.metrics import METRICS, Metric
from workbench.stores.recipes import Difference, differences

MOST_RUNS = 8
"""Runs that are compared at once: as many as there are colours that anybody tells apart."""
SEPARATOR = "/"
"""Between names in an address: the one mark that no name of a folder holds."""
ABOUT_RUNS = {
    "recipe_fingerprint": "fingerprint of the recipe",
    "model_fingerprint": "fingerprint of the model",
}
"""What run.json says of a run that is compared like a key of its recipe."""

EXPORTED = {
    "run": pl.String(), "metric": pl.String(), "unit": pl.String(), "axis": pl.String(), "x": pl.Float64(),
    "value": pl.Float64(), "smoothed": pl.Float64(),
}  # fmt: skip


def names_of(text: str) -> list[str]:
    """Names in an address, each once, at most MOST_RUNS."""
    return list(dict.fromkeys(name for name in text.split(SEPARATOR) if name))[:MOST_RUNS]


def text_of(names: Sequence[str]) -> str:
    """Names as an address holds them."""
    return SEPARATOR.join(names)


class Comparison:
    """The runs of one page, in the order in which they were chosen. `opened` gives the curves of a name."""

    def __init__(self, names: Sequence[str], opened: Callable[[str], RunCurves]):
        self.names = list(names)
        self.runs: dict[str, RunCurves] = {}
        self.problems: dict[str, str] = {}
        for name in self.names:
            try:
                self.runs[name] = opened(name)
            except MegaContextError as problem:
                self.problems[name] = str(problem)

    def refresh(self) -> None:
        """Take in what is new. A run that has become unreadable keeps what was read of it, beside its sentence."""
        for name, run in self.runs.items():
            try:
                run.refresh()
                self.problems.pop(name, None)
            except MegaContextError as problem:
                self.problems[name] = str(problem)

    def metrics(self) -> list[Metric]:
        """Those that any of the runs has."""
        return [metric for metric in METRICS if any(run.has(metric) for run in self.runs.values())]

    def differences(self) -> list[Difference]:
        """Fingerprints and keys of the recipes in which the runs differ."""
        runs = self.runs.values()
        about = [
            Difference(title, tuple(_text(run.info.raw.get(key)) for run in runs))
            for key, title in ABOUT_RUNS.items()
        ]
        return [
            *(row for row in about if len(set(row.values)) > 1),
            *differences([run.recipe for run in runs]),
        ]

    def frame(self, metrics: Sequence[Metric], axis: str, half_life: int) -> pl.DataFrame:
        """Every point of the metrics, of all runs: columns of EXPORTED. Not thinned."""
        parts = [pl.DataFrame(schema=EXPORTED)]
        for metric in metrics:
            _, over = metric.stands_over(axis)
            for name, run in self.runs.items():
                points = run.points(metric, axis, half_life)
                rows = pl.DataFrame({"x": points.x, "value": points.value, "smoothed": points.smooth})
                about = {"run": name, "metric": metric.name, "unit": metric.unit, "axis": over}
                parts.append(
                    rows.filter(pl.col("x").is_not_nan())
                    .with_columns(pl.lit(text).alias(column) for column, text in about.items())
                    .select(*EXPORTED)
                )
        return pl.concat(parts)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
