"""The benchmark of the tree runs whole on a small memory, and tells figures of right answers only."""

from pathlib import Path

from workbench.bench.tree import TreeBench


def test_a_small_run_times_every_interaction_and_finds_its_memory_again(tmp_path: Path) -> None:
    bench = TreeBench(tokens=70_000, rounds=2, folder=tmp_path)
    first = bench.measure()
    made = (tmp_path / "large" / "current").stat().st_mtime_ns
    assert first["tokens"] == 70_000 and len(first["page"]) == 5
    assert all(one["p95_ms"] > 0 for place in ("store", "page") for one in first[place].values())
    bench.measure()
    assert (tmp_path / "large" / "current").stat().st_mtime_ns == made
