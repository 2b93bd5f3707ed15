"""Substitutability: shares are of the deltas, leaving out is no gist, and diversity knows alike from different."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from toys import write_book

from megacontext.cli import main
from megacontext.errors import ConfigError
from megacontext.evals.substitutability import (
    SubstitutabilityConfig,
    diversity,
    substitutability_results,
)


def test_equal_vectors_have_rank_one_and_cosine_one():
    rows = np.ones((6, 4)) + 1e-9 * np.random.default_rng(0).normal(size=(6, 4))
    found = diversity(rows, np.array(list("aabbcc")))
    assert found["cosine"] == pytest.approx(1) == found["cosine_across"]


def test_an_even_spread_over_d_directions_has_effective_rank_d():
    rows = np.concatenate((np.eye(5), -np.eye(5)))
    assert diversity(rows, np.arange(10))["effective_rank"] == pytest.approx(5)
    assert diversity(rows, np.arange(10))["cosine_within"] is None
    assert diversity(np.ones((3, 4)), np.zeros(3))["effective_rank"] == pytest.approx(1)


def test_documents_with_a_direction_each_are_alike_within_and_not_across():
    rng = np.random.default_rng(0)
    rows = np.repeat(np.eye(2, 8), 20, axis=0) + 0.05 * rng.normal(size=(40, 8))
    found = diversity(rows, np.repeat(["a", "b"], 20))
    assert found["cosine_within"] > 0.9 and abs(found["cosine_across"]) < 0.1


def test_shares_count_spans_under_a_nat_a_token_and_in_all():
    deltas = np.array([0.01, 0.02, 0.5, 1.5])  # over 32 tokens: .32, .64, 16, 48
    rows = [
        {"cell": "prose LOD1", "model": "m", "horizon": 32, "segment": str(at), "plain": 3.0, "gist": 3 + delta,
         "mean": 3 + delta, "wrong": 3.0, "nothing": 5.0}
        for at, delta in enumerate(deltas)
    ]  # fmt: skip
    results = substitutability_results(pl.DataFrame(rows), [])
    gist, _, wrong, nothing = results["cells"]
    assert gist["substitutable"] == 0.75 and gist["wholly"] == 0.5
    assert gist["perplexity_ratio"] == pytest.approx(np.exp(deltas.mean()))
    assert wrong["substitutable"] == 1 and nothing["substitutable"] == 0
    assert "75.0% of 4 spans" in results["sentences"][0] and "0.0% when left out" in results["sentences"][0]


def test_sizes_that_cannot_be_are_refused():
    for changes, sentence in (
        ({"raw_tokens": 10}, "raw_tokens 64, got 32, 60, 8, 128 and 10"),
        ({"lods": (0,)}, r"lods of 1 and 2, got 2 and \[0\]"),
        ({"seed": -1}, "seed must not be negative"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            SubstitutabilityConfig(**{"seed": 0} | changes)


def test_a_run_has_rows_tables_and_a_report(tmp_path, bundle_folder, monkeypatch, capsys):
    shutil.copytree(bundle_folder, tmp_path / "toy")
    write_book(tmp_path / "book.txt", 9000)
    write_book(tmp_path / "other.txt", 9000, start=40_000)
    monkeypatch.chdir(tmp_path)
    genres = 'genres=[{name="prose", measured=["book.txt"], others=["other.txt"]}]'
    given = ["eval", "substitutability", "--model", "toy", "--n", "4", "--set", genres, "horizon=8"]
    assert main([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["results"]
    run = tmp_path / "runs" / "eval-substitutability"
    spans = pl.read_parquet(run / "spans.parquet")
    assert spans.height == 8 and set(spans["lod"]) == {1, 2}
    assert [row["vectors"] for row in told["diversity"]] == ["gist", "mean"] * 2
    assert "Diversity of the vectors" in (run / "report.html").read_text()
    # What a span is made of decides what is predicted, in each of its places.
    for kind in ("gist", "mean", "wrong", "nothing"):
        assert (spans[kind] - spans["plain"]).abs().max() > 1e-4
