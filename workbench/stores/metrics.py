"""What curves can be drawn of: each metric, the telemetry that it comes from, and what it stands over.

A metric is an expression over the columns of one kind of telemetry, with a unit. Metrics are declared here and
nowhere else; curves, their exports and the tests go through the list. Deliberately ignorant of runs and of plots.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from megacontext.telemetry import SCHEMAS

AXES = {"step": "Step", "tokens": "Tokens", "time": "Time"}
"""What curves may stand over, and in words."""

ROW = "row"
"""Number of a row within its kind, counted from 0: the place of what has neither step, tokens nor time."""

_STANDS_OVER: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "step": ("step", "training step"),
        "tokens": ("tokens_seen", "tokens read"),
        "time": ("wall_s", "seconds of training"),
    },
    "validation": {
        "step": ("step", "training step"),
        "tokens": ("tokens_seen", "tokens read"),
        "time": ("wall_s", "seconds of training"),
    },
    "gist_value": {
        "step": ("step", "training step"),
        "tokens": ("tokens_seen", "positions read"),
        "time": ("wall_s", "seconds of training"),
    },
    "ingest": {
        "step": ("blocks_total", "blocks stored, by history"),
        "tokens": ("tokens_total", "tokens stored, by history"),
        "time": ("wall_s", "seconds of ingestion, by history"),
    },
    "reading": {"step": ("refocus", "refocus"), "tokens": ("num_tokens", "tokens of history")},
    "focus": {"step": (ROW, "refocus steps, all questions in their order")},
    "answer": {"step": (ROW, "answers, in their order")},
}
"""Column and words of each axis, by kind; an axis that is not there was not recorded."""

WINDOW = 100
"""Rows that a quantile or a share is of: the last hundred."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One curve a run."""

    name: str
    title: str
    kind: str
    unit: str
    value: pl.Expr
    """Over the columns of the kind; null where a row does not have it."""
    format: str = "0.[000]"
    """Of its numbers, by numeral.js."""
    quantile: float | None = None
    """Of the last WINDOW rows, instead of each row's own value."""
    rolling: bool = False
    """The mean of the last WINDOW rows, instead of each row's own value."""

    @property
    def tail_rows(self) -> int:
        """Rows before a new one that its value depends on."""
        return WINDOW if self.rolling or self.quantile is not None else 0

    def stands_over(self, axis: str) -> tuple[str, str]:
        """Column of its kind for an axis, and what to write below it; the words say what is used for one not there."""
        known = _STANDS_OVER[self.kind]
        if axis in known:
            return known[axis]
        column, words = known["step"]
        return column, f"{words} (no {AXES[axis].lower()} recorded here)"


def _train(name: str, title: str, unit: str, **extra: object) -> Metric:
    return Metric(name=name, title=title, kind="train", unit=unit, value=pl.col(name), **extra)


def _share(columns: str, of: str) -> pl.Expr:
    return pl.col(columns) / pl.when(pl.col(of) > 0).then(pl.col(of))


def residency(block_size: int | None) -> pl.Expr:
    """Share of a context's entries that a refocus step leaves in place, 0..1; null where K is not known.

    A collapse takes K siblings away, an expansion one entry.
    """
    if block_size is None:
        return pl.lit(None, dtype=pl.Float64())
    moved = pl.col("expanded") + block_size * pl.col("collapsed")
    return (1 - moved / pl.when(pl.col("entries") > 0).then(pl.col("entries"))).clip(0, 1)


_NATS, _SHARE, _MS = "nats", "share", "ms"
METRICS: tuple[Metric, ...] = (
    _train("loss_nats", "Loss minimised", _NATS),
    _train("lm_loss_nats", "Next-token loss", _NATS),
    _train("horizon_loss_nats", "Loss behind gists", _NATS),
    _train("teacher_divergence_nats", "Divergence from full context", _NATS),
    _train("reconstruction_loss_nats", "Reconstruction loss", _NATS),
    _train("next_gist_error", "Error of foretold gists", "of their spread"),
    _train("next_gist_lod1_error", "Error of foretold gists, LOD1", "of their spread"),
    _train("next_gist_lod2_error", "Error of foretold gists, LOD2", "of their spread"),
    _train("pooling_error", "Distance of gists to block means", "squared"),
    _train("attention_error", "Error of attention's outputs", "of mean square"),
    _train("answer_loss_nats", "Answer loss", _NATS),
    _train("answer_accuracy", "Answer tokens right", _SHARE, format="0.[0]%"),
    _train("address_loss_nats", "Address loss", _NATS),
    _train("address_accuracy", "Addresses found", _SHARE, format="0.[0]%"),
    _train("lens_loss_nats", "LensNet loss", _NATS),
    _train("lens_accuracy", "LensNet points right", _SHARE, format="0.[0]%"),
    _train("lens_correlation", "LensNet against utilities", "rank correlation"),
    _train("preferred_share", "Contexts with a better neighbour", _SHARE, format="0.[0]%"),
    _train("preferred_gain_nats", "What the better neighbour saves", _NATS),
    _train("learning_rate", "Learning rate", "of matrices", format="0.0[0000]"),
    _train("tokens_per_s", "Speed of training", "tokens/s", format="0.[0]a"),
    Metric(name="bits_per_byte", title="Held-out text", kind="validation", unit="bits/byte",
           value=pl.col("bits_per_byte")),
    Metric(name="delta_nll_nats", title="Delta-NLL of gists, held-out text", kind="gist_value", unit="nats a token",
           value=pl.col("delta_nll_nats")),
    Metric(name="gists_minus_drop_nats", title="Gists minus recent tokens, held-out text", kind="gist_value",
           unit="nats a token", value=pl.col("gists_minus_drop_nats")),
    Metric(name="ingest_tokens_per_s", title="Speed of ingestion", kind="ingest", unit="tokens/s",
           value=pl.col("tokens_per_s"), format="0.[0]a"),
    Metric(name="store_megabytes", title="Size of the store", kind="ingest", unit="MB",
           value=pl.col("store_bytes") / 1e6, format="0.[00]"),
    Metric(name="swap_rate", title="Swap rate", kind="focus", unit="edits an entry and step", format="0.[0]%",
           value=_share("expanded", "entries") + _share("collapsed", "entries")),
    Metric(name="residency", title="Residency", kind="focus", unit="entries that stay", format="0.[0]%",
           value=residency(None)),
    Metric(name="budget_use", title="Budget use", kind="focus", unit="of positions", format="0.[0]%",
           value=_share("cost_positions", "budget_positions")),
    Metric(name="refused", title="Expansions refused", kind="focus", unit="entries a step",
           value=pl.col("refused").cast(pl.Float64)),
    Metric(name="score_max", title="Highest score", kind="focus", unit="−1 to 1", value=pl.col("score_max")),
    Metric(name="focus_p50_ms", title="Refocus step, p50", kind="focus", unit=_MS, value=pl.col("latency_ms"),
           quantile=0.5, format="0.[00]"),
    Metric(name="focus_p95_ms", title="Refocus step, p95", kind="focus", unit=_MS, value=pl.col("latency_ms"),
           quantile=0.95, format="0.[00]"),
    Metric(name="reused_share", title="KV rows reused", kind="reading", unit=_SHARE, value=pl.col("reused_share"),
           format="0.[0]%"),
    Metric(name="reading_budget_use", title="Budget use of readings", kind="reading", unit="of positions",
           value=_share("positions", "budget_positions"), format="0.[0]%"),
    Metric(name="reading_p50_ms", title="Reading, p50", kind="reading", unit=_MS, value=pl.col("latency_ms"),
           quantile=0.5, format="0.[0]"),
    Metric(name="reading_p95_ms", title="Reading, p95", kind="reading", unit=_MS, value=pl.col("latency_ms"),
           quantile=0.95, format="0.[0]"),
    Metric(name="right_share", title="Answers right", kind="answer", unit="of the last 100, all arms",
           value=pl.col("correct").cast(pl.Float64), rolling=True, format="0.[0]%"),
    Metric(name="answer_p50_ms", title="Answer, p50", kind="answer", unit=_MS, value=pl.col("latency_ms"),
           quantile=0.5, format="0.[0]"),
    Metric(name="answer_p95_ms", title="Answer, p95", kind="answer", unit=_MS, value=pl.col("latency_ms"),
           quantile=0.95, format="0.[0]"),
)  # fmt: skip
GROUPS = {
    "train": "Training",
    "validation": "Held-out text",
    "gist_value": "Worth of gists",
    "ingest": "Ingestion",
    "focus": "Focus",
    "reading": "Reading",
    "answer": "Answers",
}
"""Kinds in words, in the order in which they are offered."""
KINDS = tuple(dict.fromkeys(metric.kind for metric in METRICS))
"""Kinds of telemetry that have curves."""


def columns_of_curves(kind: str) -> list[str]:
    """Columns of a kind that some metric or axis needs."""
    needed = {column for column, _ in _STANDS_OVER[kind].values()}
    for metric in METRICS:
        if metric.kind == kind:
            needed.update(metric.value.meta.root_names())
    if kind == "focus":
        needed.update(residency(1).meta.root_names())
    return [name for name in SCHEMAS[kind] if name in needed]
