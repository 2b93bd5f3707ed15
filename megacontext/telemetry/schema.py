"""The columns of telemetry: an interface between runs and whoever looks at them, possibly years later.

Every kind of event has a fixed table of columns with type, meaning and unit (which is also in the name). To
add or change a column is to raise SCHEMA_VERSION: readers fill columns that an older run lacks with nulls,
and refuse a run that is newer than they are. Deliberately ignorant of how rows are stored and of who emits
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from megacontext.errors import ConfigError

SCHEMA_VERSION = 6


class Column(NamedTuple):
    """One column: its type, what it means, and whether a row may leave it open (null)."""

    dtype: pl.DataType
    meaning: str
    required: bool = False


_INT, _FLOAT, _TEXT, _BOOL = pl.Int64(), pl.Float64(), pl.String(), pl.Boolean()

_HISTORY = Column(_TEXT, "name of the history whose tree is read, such as 16k-3", required=True)
_ARM = Column(_TEXT, "name of the arm: the way in which the budget is spent", required=True)
_QUESTION = Column(_INT, "number of the question within its history, from 0", required=True)
_FOCUS_STEP = Column(_INT, "number of the refocus step within its question, from 0", required=True)

COLUMNS: dict[str, dict[str, Column]] = {
    # One row per recorded training step. A stage leaves open what it does not measure.
    "train": {
        "step": Column(_INT, "optimiser steps done, over all stages", required=True),
        "stage": Column(_TEXT, "name of the training stage", required=True),
        "wall_s": Column(_FLOAT, "seconds since training began"),
        "tokens_seen": Column(_INT, "tokens read so far, padding not counted"),
        "loss_nats": Column(_FLOAT, "the loss that was minimised, all terms with their weights"),
        "lm_loss_nats": Column(_FLOAT, "next-token loss on plain text, per token"),
        "answer_loss_nats": Column(_FLOAT, "loss on the tokens of answers, per token"),
        "answer_accuracy": Column(_FLOAT, "share of answer tokens predicted rightly, 0..1"),
        "address_loss_nats": Column(_FLOAT, "InfoNCE loss of addresses, per query"),
        "address_accuracy": Column(_FLOAT, "share of queries whose own block has the nearest address, 0..1"),
        "lens_loss_nats": Column(_FLOAT, "LensNet's loss, per question"),
        "lens_accuracy": Column(_FLOAT, "share of questions whose needed entry LensNet scores highest, 0..1"),
        "horizon_loss_nats": Column(
            _FLOAT, "next-token loss of scored tokens behind gists, per token, since version 4"
        ),
        "teacher_divergence_nats": Column(
            _FLOAT, "divergence there from what is said behind the tokens, per token, since version 4"
        ),
        "reconstruction_loss_nats": Column(
            _FLOAT, "loss of blocks' own tokens given their gists, per token, since version 4"
        ),
        "next_gist_error": Column(
            _FLOAT, "squared error of foretold gists over the spread of the true ones, since version 4"
        ),
        "next_gist_lod1_error": Column(_FLOAT, "the same of gists of blocks alone, since version 6"),
        "next_gist_lod2_error": Column(_FLOAT, "the same of gists of gists alone, since version 6"),
        "pooling_error": Column(
            _FLOAT, "mean squared distance of gists to the means of their blocks, since version 4"
        ),
        "lens_correlation": Column(
            _FLOAT,
            "rank correlation of LensNet's scores with measured utilities, in a context, since version 4",
        ),
        "preferred_share": Column(_FLOAT, "share of contexts with a better neighbour, 0..1, since version 4"),
        "preferred_gain_nats": Column(
            _FLOAT, "what the better neighbour saves beyond its price, per token, since version 4"
        ),
        "attention_error": Column(
            _FLOAT, "squared error of attention's outputs over their mean square, since version 3"
        ),
        "learning_rate": Column(_FLOAT, "learning rate of the matrices at this step"),
        "tokens_per_s": Column(_FLOAT, "tokens read per second since the row before"),
    },
    # One row per measurement of a base model in training on text that it does not train on. Since version 2.
    "validation": {
        "step": Column(_INT, "optimiser steps done", required=True),
        "wall_s": Column(_FLOAT, "seconds spent in steps since training began"),
        "tokens_seen": Column(_INT, "tokens read so far"),
        "bits_per_byte": Column(_FLOAT, "bits per byte of the held-out text", required=True),
        "nats_per_token": Column(_FLOAT, "nats per token of the held-out text"),
    },
    # One row per measurement, in training, of what gists are worth on text that is not trained on. Since version 6.
    "gist_value": {
        "step": Column(_INT, "optimiser steps done, over all stages", required=True),
        "wall_s": Column(_FLOAT, "seconds spent in steps since training began"),
        "tokens_seen": Column(_INT, "positions read so far"),
        "windows": Column(_INT, "windows of held-out text", required=True),
        "delta_nll_nats": Column(
            _FLOAT, "nats a token that it costs to read the distant blocks as gists", required=True
        ),
        "delta_nll_se": Column(_FLOAT, "its standard error over windows, nats a token"),
        "gists_minus_drop_nats": Column(
            _FLOAT, "nats a token above as many positions of recent tokens", required=True
        ),
        "headroom_nats": Column(_FLOAT, "what all distant tokens save over those recent ones, nats a token"),
    },
    # One row per chunk of history that was written into a tree.
    "ingest": {
        "history": _HISTORY,
        "wall_s": Column(_FLOAT, "seconds since this history's ingestion began"),
        "tokens_total": Column(_INT, "tokens stored so far"),
        "blocks_total": Column(_INT, "complete blocks stored so far"),
        "tokens_per_s": Column(_FLOAT, "tokens stored per second, over this chunk"),
        "store_bytes": Column(_INT, "bytes that the store takes"),
    },
    # One row per refocus step.
    "focus": {
        "history": _HISTORY,
        "arm": _ARM,
        "question": _QUESTION,
        "step": _FOCUS_STEP,
        "entries": Column(_INT, "entries of the working context before the step's edits"),
        "cost_positions": Column(_INT, "positions that the context costs before the step's edits"),
        "budget_positions": Column(_INT, "positions that it may cost"),
        "expanded": Column(_INT, "entries expanded by the step"),
        "collapsed": Column(_INT, "sibling groups collapsed by the step"),
        "refused": Column(_INT, "entries that asked to be expanded and found no room"),
        "score_max": Column(_FLOAT, "highest score of an entry, -1..1"),
        "latency_ms": Column(_FLOAT, "milliseconds that scoring, planning and editing took"),
    },
    # Traced questions, and every refocus of a session that goes on (its question is the number of the refocus, its
    # history the memory's name): one row per entry and step, the state before the step's edits. In the last step no
    # entry is edited: it is the final context.
    "entry": {
        "history": _HISTORY,
        "arm": _ARM,
        "question": _QUESTION,
        "step": _FOCUS_STEP,
        "slot": Column(
            _INT, "place of the entry in the working context, from 0, in time order", required=True
        ),
        "lod": Column(
            _INT, "level of detail: 0 for raw tokens, l >= 1 for a gist of that level", required=True
        ),
        "index": Column(_INT, "index of the node in its level; of the block for raw tokens", required=True),
        "start": Column(_INT, "first token that the entry covers", required=True),
        "stop": Column(_INT, "one past the last token that it covers", required=True),
        "cost_positions": Column(_INT, "positions that it costs"),
        "score": Column(_FLOAT, "its score, -1..1, positive for more detail"),
        "edit": Column(_TEXT, "what the step does to it: expand, collapse, or nothing (empty)"),
        "reason": Column(
            _TEXT, "name of the focus.reasons.Reason: what became of it and why, since version 5"
        ),
    },
    # Traced questions only: one row per block of the history.
    "block_score": {
        "history": _HISTORY,
        "question": _QUESTION,
        "block": Column(_INT, "index of the block", required=True),
        "score": Column(_FLOAT, "cosine of the block's address with the question, -1..1"),
    },
    # One row per reading of a session that goes on: after each of its refocuses. Since version 2.
    "reading": {
        "refocus": Column(_INT, "number of the refocus whose context was read, from 0", required=True),
        "num_tokens": Column(_INT, "tokens of history then"),
        "entries": Column(_INT, "entries of the working context"),
        "positions": Column(_INT, "key/value positions that the last token attends to"),
        "budget_positions": Column(_INT, "positions that there may be"),
        "rows_reused": Column(_INT, "leading positions whose keys and values were kept"),
        "rows_computed": Column(_INT, "positions that the model was run on"),
        "reused_share": Column(_FLOAT, "kept positions over all, 0..1"),
        "latency_ms": Column(_FLOAT, "milliseconds that the reading took, the focus before it not counted"),
    },
    # One row per question and arm.
    "answer": {
        "history": _HISTORY,
        "arm": _ARM,
        "question": _QUESTION,
        "kind": Column(_TEXT, "plain, or superseded when newer values replaced the first"),
        "versions": Column(_INT, "values that the fact was given over the history; the last counts"),
        "depth": Column(_FLOAT, "place of the needed fact: 0 = oldest end of the history, 1 = newest"),
        "expected": Column(_TEXT, "the right answer"),
        "answered": Column(_TEXT, "the answer given"),
        "correct": Column(_BOOL, "whether the two are the same text"),
        "cost_positions": Column(_INT, "positions that the answering context cost"),
        "budget_positions": Column(_INT, "positions that it might cost"),
        "hit": Column(_BOOL, "whether every needed block stood raw in the final context"),
        "latency_ms": Column(_FLOAT, "milliseconds from the question to the answer, refocusing included"),
    },
}

SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    kind: {name: column.dtype for name, column in columns.items()} for kind, columns in COLUMNS.items()
}


def columns_of(kind: str) -> dict[str, Column]:
    """The columns of one kind of event. Raises ConfigError for an unknown kind."""
    if kind not in COLUMNS:
        raise ConfigError(f"unknown telemetry kind {kind!r}; known are {', '.join(COLUMNS)}")
    return COLUMNS[kind]


def check_names(kind: str, names: Iterable[str]) -> None:
    """Raises ConfigError unless all `names` are columns of `kind` and no required one is missing."""
    columns, names = columns_of(kind), set(names)
    if unknown := sorted(names - columns.keys()):
        raise ConfigError(
            f"telemetry kind {kind!r} has no column {', '.join(unknown)}; known are {', '.join(columns)} "
            "(a new one belongs into megacontext/telemetry/schema.py, with a new version)"
        )
    if missing := [name for name, column in columns.items() if column.required and name not in names]:
        raise ConfigError(
            f"every row of telemetry kind {kind!r} must have {', '.join(missing)}; pass them too"
        )


def empty(kind: str) -> pl.DataFrame:
    """A frame of that kind without rows. Raises ConfigError for an unknown kind."""
    columns_of(kind)
    return pl.DataFrame(schema=SCHEMAS[kind])


def checked_row(kind: str, row: dict[str, object]) -> dict[str, object]:
    """`row` with every value as plain bool, int, float, str or None. Raises ConfigError for a wrong name or
    type.

    Numbers of numpy and of torch are taken for what they hold; an integer passes for a float, never a float
    for an integer, and a truth value for neither.
    """
    columns = columns_of(kind)
    if not row.keys() <= columns.keys():
        check_names(kind, row)
    checked = {}
    for name, (dtype, _, required) in columns.items():
        value = row.get(name)
        if hasattr(value, "item"):
            value = value.item()
        if value is None:
            if required:
                raise ConfigError(f"every row of telemetry kind {kind!r} must have {name}; pass it too")
        elif not _fits(dtype, value):
            raise ConfigError(
                f"telemetry column {kind}.{name} holds {dtype}, got {value!r} ({type(value).__name__}); "
                "convert it"
            )
        checked[name] = value
    return checked


def checked_frame(kind: str, frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with all columns of `kind`, in order, in their types; absent ones are null.

    Raises ConfigError for a wrong name or type, or a null in a required column.
    """
    check_names(kind, frame.columns)
    for name, dtype in frame.schema.items():
        column = COLUMNS[kind][name]
        same = dtype == column.dtype or dtype == pl.Null
        if not (
            same
            or (column.dtype == _INT and dtype.is_integer())
            or (column.dtype == _FLOAT and dtype.is_numeric())
        ):
            raise ConfigError(f"telemetry column {kind}.{name} holds {column.dtype}, got {dtype}; convert it")
        if column.required and frame[name].null_count():
            raise ConfigError(f"every row of telemetry kind {kind!r} must have {name}, some leave it null")
    try:
        return conformed(kind, frame)
    except pl.exceptions.InvalidOperationError as problem:
        raise ConfigError(f"telemetry kind {kind!r} cannot hold this frame ({problem}); convert it") from None


def conformed(kind: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The columns that this version knows, in order: absent ones as nulls, unknown ones left out."""
    present = set(frame.columns)
    return frame.select(
        (pl.col(name) if name in present else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in SCHEMAS[kind].items()
    )


def _fits(dtype: pl.DataType, value: object) -> bool:
    if isinstance(value, bool):
        return dtype == _BOOL
    if dtype == _INT:
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if dtype == _FLOAT:
        return isinstance(value, (int, float))
    return dtype == _TEXT and isinstance(value, str)
