"""The bench of focus runs, checks what it measures, and its figures hang together."""

import json

import pytest

from megacontext.bench.focus import SHAPES, FocusBenchConfig, bench_focus
from megacontext.errors import ConfigError
from megacontext.focus import STRATEGIES

TINY = FocusBenchConfig(
    entries=(300, 700), planned_tokens=200_000, rounds=3, exact_tokens=(5_000, 40_003), budget=700, exact_rounds=2,
    seeds=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def told():
    arms = []
    result = bench_focus(TINY, arms.append)
    assert len(arms) == 3
    return result


def test_every_strategy_is_timed_at_every_size(told):
    rows = [(row["strategy"], row["edits"]) for row in told["planning"]]
    assert rows == [(name, 4) for _ in TINY.entries for name in STRATEGIES.names()]
    for row in told["planning"]:
        for name in ("plan_ms", "apply_ms", "materialise_ms"):
            assert 0 < row[f"{name}_min"] <= row[name] <= row[f"{name}_max"]
    assert told["machine"]["cores"] >= 1 and json.loads(json.dumps(told))["config"]["budget"] == 700


def test_nothing_is_better_than_exact_and_exact_has_no_regret(told):
    assert [row["tokens"] for row in told["exact"]] == list(TINY.exact_tokens)
    assert all(row["cost_positions"] <= 700 and row["value"] > 0 for row in told["exact"])
    assert len(told["shares"]) == len(TINY.exact_tokens) * len(SHAPES) * len(STRATEGIES.names())
    for row in told["shares"]:
        if row["strategy"] == "exact":
            assert row["share_of_best_min"] == pytest.approx(1) and row["regret_max"] == pytest.approx(
                0, abs=1e-9
            )
        else:
            assert 0.3 < row["share_of_best_min"] <= row["share_of_best_max"] <= 1 + 1e-9


@pytest.mark.parametrize("change", [{"rounds": 0}, {"seeds": 0}, {"entries": (5,)}, {"exact_tokens": ()}])
def test_sizes_that_measure_nothing_are_refused(change):
    with pytest.raises(ConfigError):
        FocusBenchConfig(**change)
