"""The schema is an interface: names, units and types are fixed, and rows that break them are refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from megacontext.errors import ConfigError
from megacontext.telemetry.schema import COLUMNS, SCHEMAS, checked_frame, checked_row, conformed, empty

ANSWER_KEYS = {"history": "16k-0", "arm": "lensnet", "question": 3}


def test_every_column_is_documented_and_every_kind_has_a_required_one():
    for columns in COLUMNS.values():
        assert all(column.meaning for column in columns.values())
        assert any(column.required for column in columns.values())


def test_columns_with_a_unit_in_their_meaning_carry_it_in_their_name():
    for columns in COLUMNS.values():
        for name, column in columns.items():
            assert name.endswith("_ms") == column.meaning.startswith("milliseconds")
            assert name.endswith("_s") <= ("second" in column.meaning)


@pytest.mark.parametrize("kind", list(SCHEMAS))
def test_an_empty_frame_has_the_schema(kind: str):
    assert dict(empty(kind).schema) == SCHEMAS[kind] and empty(kind).height == 0


def test_numpy_scalars_are_taken_for_what_they_hold():
    row = checked_row(
        "answer",
        {**ANSWER_KEYS, "question": np.int32(3), "depth": np.float32(0.5), "correct": np.bool_(True)},
    )
    assert (row["question"], row["depth"], row["correct"]) == (3, 0.5, True)
    assert type(row["correct"]) is bool


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("question", 1.0),
        ("question", True),
        ("question", "1"),
        ("question", 2**63),
        ("depth", "deep"),
        ("depth", False),
        ("correct", 1),
        ("expected", 7),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(name: str, value: object):
    with pytest.raises(ConfigError, match=rf"answer\.{name} holds"):
        checked_row("answer", {**ANSWER_KEYS, name: value})


def test_unknown_kind_unknown_column_and_missing_key_are_each_a_sentence():
    with pytest.raises(
        ConfigError, match="unknown telemetry kind 'answers'; known are train, validation, gist_value, ingest"
    ):
        checked_row("answers", {})
    with pytest.raises(ConfigError, match="'answer' has no column latency; known are history"):
        checked_row("answer", {**ANSWER_KEYS, "latency": 1.0})
    with pytest.raises(ConfigError, match="must have arm"):
        checked_row("answer", {"history": "16k-0", "question": 3})


def test_a_frame_is_completed_ordered_and_cast():
    frame = pl.DataFrame({"score": [1, 0], "block": np.array([0, 1], dtype=np.uint16)}).with_columns(
        history=pl.lit("h"), question=pl.lit(0, pl.Int32)
    )
    assert dict(checked_frame("block_score", frame).schema) == SCHEMAS["block_score"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"block": [0.5]}, "block_score.block holds Int64, got Float64"),
        ({"score": ["high"]}, "block_score.score holds Float64, got String"),
        ({"block": [None]}, "must have block, some leave it null"),
        ({"block": np.array([2**64 - 1], dtype=np.uint64)}, "cannot hold this frame"),
        ({"blok": [1]}, "no column blok"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(columns: dict, message: str):
    whole = {"history": ["h"], "question": [0], "block": [0], "score": [0.0]}
    with pytest.raises(ConfigError, match=message):
        checked_frame("block_score", pl.DataFrame(whole | columns))


def test_conforming_adds_nulls_for_columns_of_a_later_schema_and_drops_unknown_ones():
    frame = conformed("ingest", pl.DataFrame({"history": ["h"], "retired": [1]}))
    assert dict(frame.schema) == SCHEMAS["ingest"]
    assert frame["store_bytes"].to_list() == [None]
