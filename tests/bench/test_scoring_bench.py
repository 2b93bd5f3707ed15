"""The scorers' bench runs at toy size, checks what it times, and says what it was measured on."""

import json

import pytest

from megacontext.bench.scoring import ScoringBenchConfig, bench_scoring
from megacontext.errors import ConfigError, UnknownVariantError

LENGTHS = (3000, 20_000)


@pytest.fixture(scope="module")
def told(bundle):
    arms = []
    result = bench_scoring(ScoringBenchConfig(tokens=LENGTHS, budget=96, questions=3), bundle, arms.append)
    assert len(arms) == 3 * len(LENGTHS)
    return result


def test_every_length_has_every_scorer_with_its_spread(told):
    assert told["machine"]["numpy"] and [row["tokens"] for row in told["lengths"]] == list(LENGTHS)
    for row in told["lengths"]:
        assert tuple(row["scorers"]) == ScoringBenchConfig().scorers
        for figures in row["scorers"].values():
            for name in ("ask_ms", "score_ms"):
                assert 0 < figures[f"{name}_min"] <= figures[name] <= figures[f"{name}_max"]
    assert json.loads(json.dumps(told))["lengths"] == told["lengths"]


def test_indexes_of_short_histories_take_no_disk_and_those_of_long_ones_little(told):
    short, long = (row["index"] for row in told["lengths"])
    assert short["addresses_bytes_per_token"] == 0
    # Four bytes a number of an address, K tokens a block; only whole runs of 1,024 blocks are in files.
    assert 0 < long["addresses_bytes_per_token"] <= 4 * 16 / 8 + 0.1
    assert long["words_tokens_per_s"] > 0 and long["follow_block_ms"] > 0


def test_a_process_of_its_own_was_looked_at(told):
    for row in told["lengths"]:
        assert "skipped" in row["memory"] or row["memory"]["anonymous_kib"] > 0


def test_a_bench_of_nothing_is_refused():
    for wrong in ({"tokens": ()}, {"tokens": (100,)}, {"questions": 0}, {"scorers": ()}):
        with pytest.raises(ConfigError, match="2,048 tokens, a question and a scorer"):
            ScoringBenchConfig(**wrong)
    with pytest.raises(UnknownVariantError):
        ScoringBenchConfig(scorers=("bm52",))
