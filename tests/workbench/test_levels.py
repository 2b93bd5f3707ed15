"""What is seen of a tree is what its nodes are worth, at every zoom."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import ShapeError
from megacontext.spans import Node, complete_counts
from workbench.stores.levels import Levels

K = 32
SIZES = st.sampled_from([0, 1, 31, 32, 33, 1023, 1024, 1025, 32_749, 40_009])


def levels_of(num_tokens: int, kind: str = "number") -> tuple[Levels, np.ndarray]:
    blocks = num_tokens // K
    values = np.random.default_rng(num_tokens).normal(size=blocks).astype(np.float32)
    if kind == "class":
        values = np.arange(blocks, dtype=np.float32)
    return Levels.of_blocks(values, num_tokens, K, kind), values


@settings(max_examples=60, deadline=None)
@given(num_tokens=SIZES, columns=st.integers(1, 80))
def test_the_whole_tree_keeps_the_maximum_of_every_level(num_tokens: int, columns: int) -> None:
    levels, values = levels_of(num_tokens)
    cells = levels.cells(0, num_tokens, columns)
    counts = complete_counts(num_tokens, K)
    assert levels.top == max(len(counts) - 1, 0)
    for lod in range(1, len(counts)):
        row = cells.filter(cells["lod"] == lod)
        assert 0 < len(row) <= columns
        assert row["x0"][0] == 0 and row["x1"][-1] == counts[lod] * K**lod
        assert row["value"].max() == values[: counts[lod] * K ** (lod - 1)].max()


@settings(max_examples=80, deadline=None)
@given(num_tokens=SIZES, columns=st.integers(1, 80), start=st.floats(-50, 41_000), width=st.floats(1, 41_000))
def test_cells_of_any_range_tile_it_level_by_level(
    num_tokens: int, columns: int, start: float, width: float
) -> None:
    levels, _ = levels_of(num_tokens)
    cells = levels.cells(start, start + width, columns)
    for lod in cells["lod"].unique():
        row = cells.filter(cells["lod"] == lod)
        assert (row["x0"][1:] == row["x1"][:-1]).all() and len(row) <= columns
        assert ((row["x1"] - row["x0"]) == (row["last"] - row["first"]) * K**lod).all()
        # All of the range that the level has is covered.
        end = num_tokens // K**lod * K**lod
        assert row["x0"][0] <= max(start, 0) and row["x1"][-1] >= min(start + width, end)


def test_a_column_of_many_names_the_node_that_it_shines_with() -> None:
    levels, values = levels_of(40_009)
    row = levels.cells(0, 40_009, 7).filter(lod=1)
    for first, last, value in row.select("first", "last", "value").iter_rows():
        node = levels.strongest(1, first, last)
        assert values[node.index] == value == values[first:last].max()


def test_classes_are_those_of_the_middle_and_never_mixed() -> None:
    levels, _ = levels_of(40_009, "class")
    assert levels.value(Node(2, 0)) == K // 2
    row = levels.cells(0, 40_009, 10).filter(lod=1)
    assert (row["value"] == row["first"] + (row["last"] - row["first"]) // 2).all()
    assert levels.strongest(1, 10, 21) == Node(1, 15)


def test_tokens_have_the_value_of_their_block_and_the_tail_none() -> None:
    levels = Levels.of_blocks(np.array([1.0, 2.0]), 2 * K + 5, K)
    row = levels.cells(0, 2 * K + 5).filter(lod=0)
    assert (
        row["value"].to_list()[:64] == [1.0] * K + [2.0] * K and np.isnan(row["value"].to_numpy()[64:]).all()
    )
    assert levels.value(Node(0, K)) == 2 and np.isnan(levels.value(Node(0, 2 * K)))


def test_tokens_come_into_sight_where_each_has_a_column() -> None:
    levels, _ = levels_of(40_009)
    assert levels.cells(100, 300, 200).filter(lod=0)["first"].to_list() == list(range(100, 300))
    assert levels.cells(100, 301, 200).filter(lod=0).is_empty()


def test_a_range_beyond_the_history_shows_nothing() -> None:
    levels, _ = levels_of(1024)
    assert levels.cells(5_000, 6_000).is_empty()


def test_values_of_a_shorter_history_leave_the_rest_without() -> None:
    levels = Levels.of_blocks(np.zeros(31), 2048, K)
    assert np.isnan(levels.values[0][31:]).all() and levels.values[1].tolist()[0] == 0


def test_more_values_than_blocks_are_another_history_s() -> None:
    with pytest.raises(ShapeError, match="have 32"):
        Levels.of_blocks(np.zeros(33), 1024, K)


def test_values_of_single_nodes_stay_at_their_level() -> None:
    lod, index, value = np.array([2, 1, 5, 1]), np.array([0, 3, 0, 99]), np.array([0.5, 0.25, 9.0, 9.0])
    levels = Levels.of_nodes(lod, index, value, 1024, K)
    assert levels.value(Node(2, 0)) == 0.5 and levels.value(Node(1, 3)) == 0.25
    assert np.isfinite(levels.values[0]).sum() == 1


def test_one_outlier_does_not_flatten_the_scale() -> None:
    values = np.linspace(0, 1, 1000)
    values[0] = -1e6
    low, high = Levels.of_blocks(values, 32_000, K).limits()
    assert 0 <= low < 0.02 and high == 1


@pytest.mark.parametrize("values", [[], [0.5], [np.nan]])
def test_the_limits_of_a_scale_are_never_empty(values: list[float]) -> None:
    low, high = Levels.of_blocks(np.array(values), 32 * len(values), K).limits()
    assert low < high
