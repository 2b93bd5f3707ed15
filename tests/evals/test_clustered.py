"""Means over clusters: what clustering does to an error, and what is unknown stays unknown."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import ShapeError
from megacontext.evals.clustered import clustered_mean, with_error
from megacontext.evals.language_tables import language_tables


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_clusters_of_one_give_the_common_standard_error(values):
    row = np.array(values)
    found = clustered_mean(row, np.arange(len(row)))
    assert found.mean == pytest.approx(row.mean(), abs=1e-9)
    assert found.se == pytest.approx(row.std(ddof=1) / len(row) ** 0.5, abs=1e-9)
    low, high = found.interval
    assert low <= found.mean <= high


def test_copies_of_a_sample_in_its_cluster_make_nothing_surer():
    row, names = np.array([1.0, 2.0, 4.0]), np.array(["a", "b", "c"])
    once, often = clustered_mean(row, names), clustered_mean(np.repeat(row, 50), np.repeat(names, 50))
    assert often.mean == pytest.approx(once.mean) and often.se == pytest.approx(once.se)


def test_every_cluster_counts_once_however_many_samples_it_has():
    found = clustered_mean(np.array([0.0, 0.0, 0.0, 3.0]), np.array([1, 1, 1, 2]))
    assert found.mean == 1.5


def test_one_cluster_has_no_error_that_is_known():
    found = clustered_mean(np.array([1.0, 2.0]), np.array(["a", "a"]))
    assert found.z == 0 and found.numbers()["se"] is None and found.numbers()["low"] is None
    json.dumps(found.numbers(), allow_nan=False)
    assert with_error(found.numbers()) == "+1.500 ± –"


def test_a_mean_is_shown_with_its_error_in_as_many_digits():
    found = clustered_mean(np.array([-1.0, -2.0]), np.array(["a", "b"]))
    assert with_error(found.numbers()) == "-1.500 ± 0.500"
    assert with_error(found.numbers(), digits=1) == "-1.5 ± 0.5"


def test_windows_of_one_segment_give_tables_without_errors():
    losses = {"full": [1.0, 1.2], "drop": [2.0, 2.4], "gist-0": [1.5, 1.6], "wrong-gist-0": [1.9, 2.0]}
    config = SimpleNamespace(genre="prose", distant_blocks=4, distant_parents=0)
    results = language_tables(pl.DataFrame({"segment": ["a", "a"], **losses}), config)
    arms, compared = results["tables"]
    assert ["drop", "2.2000", "+0.0000 ± –"] in arms["rows"]
    assert (
        compared["rows"][0][:2] == ["gist-0", "-0.6500 ± –"]
        and "headroom +1.1000 ± –" in results["sentences"][0]
    )


@pytest.mark.parametrize(("values", "names"), [([], []), ([1.0], ["a", "b"])])
def test_nothing_or_values_without_names_are_refused(values, names):
    with pytest.raises(ShapeError, match="needs values and as many names of clusters"):
        clustered_mean(np.array(values), np.array(names))
