"""The rule of the pyramid: every token once, nothing from the future, and a cost that hardly grows."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megakernels.errors import KernelShapeError
from megakernels.pyramid_attention import Pyramid, Queries
from megakernels.pyramid_attention.reference import seen as is_seen
from megakernels.pyramid_attention.rule import read_by
from megakernels.pyramid_attention.sight import sight

causal_rules = st.builds(
    Pyramid, window=st.integers(1, 40), block=st.integers(2, 5),
    spans=st.lists(st.integers(0, 60), max_size=2).map(tuple), slots=st.integers(0, 3),
) | st.builds(
    Pyramid, window=st.integers(1, 20), block=st.integers(2, 4),
    spans=st.lists(st.integers(0, 30), min_size=1, max_size=2).map(tuple), edges=st.integers(1, 5),
    seed=st.integers(0, 9),
)  # fmt: skip
rules = causal_rules | causal_rules.map(lambda rule: replace(rule, overshoot=True))


def tokens_covered(rule: Pyramid, read: int) -> list[int]:
    """Every token that a query which has read so many sees, by itself or within a summary, sorted."""
    (runs,) = rule.runs(torch.tensor([read]))
    covered = []
    for level, (first, stop) in enumerate(runs[: rule.levels + 1].tolist()):
        width = rule.block**level
        covered += range(first * width, stop * width)
    return sorted(covered)


@given(rules, st.integers(0, 400))
def test_a_query_covers_every_token_that_it_has_read_once_and_none_besides(rule: Pyramid, read: int) -> None:
    assert tokens_covered(rule, read) == list(range(read))


@given(rules, st.integers(0, 300))
def test_the_last_tokens_are_seen_one_by_one_and_hardly_more(rule: Pyramid, read: int) -> None:
    first, stop = rule.runs(torch.tensor([read]))[0, 0].tolist()
    assert stop == read and min(rule.window, read) <= stop - first <= rule.window + rule.block - 1


@given(rules, st.integers(0, 300))
def test_every_query_that_has_read_anything_sees_all_slots(rule: Pyramid, read: int) -> None:
    assert rule.runs(torch.tensor([read]))[0, rule.levels + 1].tolist() == [0, rule.slots if read else 0]


@given(causal_rules, st.integers(0, 400))
def test_nothing_that_is_seen_knows_what_comes_after(rule: Pyramid, read: int) -> None:
    (runs,) = rule.runs(torch.tensor([read]), known=10_000)
    for level, (first, stop) in zip(rule.columns, runs.tolist(), strict=True):
        assert first == stop or level > rule.levels or stop * rule.block**level <= read


@given(causal_rules, st.integers(0, 400))
def test_edges_lead_to_summaries_that_are_seen_in_no_other_way(rule: Pyramid, read: int) -> None:
    (runs,) = rule.runs(torch.tensor([read]))
    edges = [node for first, stop in runs[rule.levels + 2 :].tolist() for node in range(first, stop)]
    far = int(rule.borders(torch.tensor(read))[2]) // rule.block if rule.edges else 0
    assert len(edges) == len({*edges}) == (rule.edges if far >= rule.edges else 0)
    assert all(node < far for node in edges) and far <= runs[1, 0]


def test_edges_are_drawn_from_the_seed_and_go_anywhere() -> None:
    found = [
        Pyramid(window=4, block=2, spans=(4,), edges=2, seed=seed)
        .runs(torch.tensor([900]))[0, -2:, 0]
        .tolist()
        for seed in range(200)
    ]
    firsts, seconds = ({*column} for column in zip(*found, strict=True))
    assert min(firsts) < 20 and max(firsts) < min(seconds) + 1 and max(seconds) > 420 and len(firsts) > 100


@given(causal_rules, st.integers(0, 200), st.integers(0, 200))
def test_overshoot_adds_the_summary_of_the_block_that_is_being_read_if_there_is_one(
    rule: Pyramid, read: int, more: int
) -> None:
    loose = replace(rule, overshoot=True)
    (runs,), (strict,) = loose.runs(torch.tensor([read]), read + more), rule.runs(torch.tensor([read]))
    assert torch.equal(runs[:-1], strict)
    own, inside = read // rule.block, read % rule.block > 0
    there = (own + 1) * rule.block <= read + more
    assert list(range(*runs[-1].tolist())) == ([own] if inside and there else [])


@given(rules, st.integers(0, 300))
def test_a_summary_is_asked_like_its_last_child(rule: Pyramid, num_tokens: int) -> None:
    counts = rule.count(num_tokens)
    queries = [Queries(level, 0, count) for level, count in enumerate(counts)]
    read, at = read_by(queries, rule), 0
    for level, count in enumerate(counts):
        assert read[at : at + count].tolist() == [(index + 1) * rule.block**level for index in range(count)]
        at += count


@given(rules, st.integers(0, 300))
def test_runs_never_go_back_and_lie_within_their_level(rule: Pyramid, num_tokens: int) -> None:
    counts = rule.count(num_tokens)
    queries = [Queries(level, 0, count) for level, count in enumerate(counts)]
    seen = sight(rule, num_tokens, queries, None, torch.device("cpu"))
    at, row = 0, 0
    for count in counts:
        runs = seen.ordered[at : at + count]
        assert count < 2 or (runs.diff(dim=0) >= 0).all()
        at += count
    for level, count in enumerate(rule.rows(num_tokens)):
        for column in (column for column, its in enumerate(seen.columns) if its == level):
            assert ((seen.ordered[:, column] >= row) & (seen.ordered[:, column] <= row + count)).all()
        row += count
    shown = seen.ordered.diff(dim=-1).sum(dim=(1, 2))
    assert torch.equal(shown, is_seen(seen.runs, row)[0].sum(dim=-1)), "a row is in two columns"


def test_what_is_seen_hardly_grows_with_the_history() -> None:
    rule = Pyramid()
    widths = rule.runs(torch.tensor([2**14, 2**17, 2**20])).diff(dim=-1).sum(dim=(1, 2)).tolist()
    # 256 to 287 tokens, up to 8,192 + 1,023 in blocks, the rest by the thousand.
    assert widths[0] <= 287 + 288 + 16 and widths[2] <= 287 + 288 + 1024


@pytest.mark.parametrize(
    "sizes", [{"window": 0}, {"block": 1}, {"spans": (-1,)}, {"slots": -1}, {"edges": -1}]
)
def test_sizes_that_are_none_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(KernelShapeError, match="a pyramid needs"):
        Pyramid(**sizes)


def test_edges_without_a_level_that_hides_anything_are_refused() -> None:
    with pytest.raises(KernelShapeError, match="edges = 2 and no spans"):
        Pyramid(spans=(), edges=2)


def test_queries_of_levels_that_there_are_not_are_refused() -> None:
    with pytest.raises(KernelShapeError, match="levels 0 to 2"):
        read_by([Queries(3, 0, 1)], Pyramid())
