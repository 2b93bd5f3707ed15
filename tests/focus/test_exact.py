"""Facts about the best context: no tiling of any small tree is better, and its size and time stay small."""

import itertools

import numpy as np
import pytest
from focus_checks import check_invariants, contexts
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import BudgetError, ConfigError, ShapeError
from megacontext.focus import NodeUtilities, Rules, WorkingContext, best_context, fit, regret, value_of
from megacontext.spans import complete_counts


def random_utilities(num_tokens, block_size, random, integers=False):
    counts = complete_counts(num_tokens, block_size)[1:]

    def draw(count):
        return random.integers(-2, 3, count) if integers else random.normal(size=count)

    raw = draw(counts[0] if counts else 0)
    return NodeUtilities(
        num_tokens=num_tokens, block_size=block_size, raw=raw, gists=tuple(draw(count) for count in counts)
    )


def all_contexts(num_tokens, block_size):
    """Every tiling of a history, from the definition: each node stands for itself or is replaced by its children."""

    def ways(lod, index):
        yield [(lod, index)]
        if lod == 1:
            yield [(0, index)]
        elif lod > 1:
            inside = [list(ways(lod - 1, index * block_size + child)) for child in range(block_size)]
            for choice in itertools.product(*inside):
                yield list(itertools.chain(*choice))

    cover = WorkingContext.cover(num_tokens, block_size)
    roots = [list(ways(int(lod), int(index))) for lod, index in zip(cover.lod, cover.index, strict=True)]
    roots = [way if lod else way[:1] for way, lod in zip(roots, cover.lod, strict=True)]
    for choice in itertools.product(*roots):
        lod, index = np.array(list(itertools.chain(*choice)), dtype=np.int64).reshape(-1, 2).T
        yield WorkingContext(lod, index, num_tokens, block_size)


def keeps(context, rules, protect_recent_tokens=0):
    """Whether a context obeys the rules, block by block from their definition."""
    size = context.block_size
    for block in range(context.num_tokens // size):
        start, stop = block * size, (block + 1) * size

        def touched(spans, start=start, stop=stop):
            return any(a < stop and start < b for a, b in spans)

        raw = bool(context.is_raw(np.array([block]))[0])
        if touched(rules.pinned):
            if not raw:
                return False
        elif touched(rules.excluded):
            if raw:
                return False
        elif stop > context.num_tokens - protect_recent_tokens and not raw:
            return False
    # A gist with nothing but excluded blocks under it is not opened: its children are not in the context.
    for lod, index in zip(context.lod, context.index, strict=True):
        if lod and lod < len(complete_counts(context.num_tokens, size)) - 1:
            width = size ** (int(lod) + 1)
            start = int(index) // size * width
            inside = [
                any(a < s + size and s < b for a, b in rules.excluded)
                and not any(a < s + size and s < b for a, b in rules.pinned)
                for s in range(start, start + width, size)
            ]
            if start + width <= context.num_tokens and all(inside):
                return False
    return True


SMALL = [
    *((size, 2) for size in range(18)),
    *((size, 3) for size in (0, 1, 2, 3, 8, 9, 10, 26, 27, 28, 31)),
    *((size, 4) for size in (3, 4, 15, 16, 17, 33)),
]


@pytest.mark.parametrize(("num_tokens", "block_size"), SMALL)
@pytest.mark.parametrize("integers", [False, True])
def test_no_tiling_of_a_small_tree_is_better_at_any_budget(num_tokens, block_size, integers):
    random = np.random.default_rng(num_tokens)
    utilities = random_utilities(num_tokens, block_size, random, integers)
    values = {context: value_of(context, utilities) for context in all_contexts(num_tokens, block_size)}
    least = max(min(context.cost for context in values), block_size)
    for budget in range(least, max(num_tokens, least) + 2):
        best = best_context(utilities, budget)
        within = {context: value for context, value in values.items() if context.cost <= budget}
        assert value_of(best, utilities) == pytest.approx(max(within.values()), abs=1e-12)
        assert best in within
        equal = [context.cost for context, value in within.items() if value >= max(within.values())]
        if integers:
            assert best.cost == min(equal), "of equal contexts, the cheaper"


@given(st.data())
@settings(max_examples=120)
def test_no_tiling_that_keeps_the_rules_is_better(data):
    num_tokens, block_size = data.draw(st.sampled_from([(16, 2), (13, 2), (27, 3), (22, 3)]))
    ends = st.tuples(st.integers(0, num_tokens), st.integers(1, 5)).map(lambda at: (at[0], at[0] + at[1]))
    pinned, excluded = data.draw(st.lists(ends, max_size=2)), data.draw(st.lists(ends, max_size=2))
    if any(a < d and c < b for a, b in pinned for c, d in excluded):
        return
    rules = Rules(pinned=tuple(pinned), excluded=tuple(excluded))
    recent = data.draw(st.integers(0, 4))
    budget = data.draw(st.integers(block_size, num_tokens))
    utilities = random_utilities(num_tokens, block_size, np.random.default_rng(data.draw(st.integers(0, 99))))
    allowed = [
        value_of(context, utilities)
        for context in all_contexts(num_tokens, block_size)
        if context.cost <= budget and keeps(context, rules, recent)
    ]
    if not allowed:
        with pytest.raises(BudgetError):
            best_context(utilities, budget, rules, protect_recent_tokens=recent)
        return
    best = best_context(utilities, budget, rules, protect_recent_tokens=recent)
    assert keeps(best, rules, recent) and best.cost <= budget
    assert value_of(best, utilities) == pytest.approx(max(allowed))


@given(contexts(), st.integers(0, 2**32 - 1), st.integers(32, 300))
@settings(max_examples=100)
def test_no_context_has_a_negative_regret(context, seed, budget):
    utilities = random_utilities(context.num_tokens, context.block_size, np.random.default_rng(seed))
    cover = WorkingContext.cover(context.num_tokens, context.block_size)
    if cover.cost > budget:
        with pytest.raises(BudgetError, match="coarsest cover"):
            best_context(utilities, budget)
        return
    context = fit(context, budget)
    assert regret(context, utilities, budget) >= -1e-9
    best = best_context(utilities, budget)
    check_invariants(best)
    assert regret(best, utilities, budget) == 0
    assert regret(best, utilities, budget + 1000) >= -1e-9, "a larger budget is never worth less"


@pytest.mark.parametrize("num_tokens", [0, 1, 31, 32, 33, 1023, 1024, 1025, 32_769, 100_003, 1_000_003])
def test_the_best_blocks_of_a_history_without_gist_utilities_are_found(num_tokens):
    raw = np.random.default_rng(0).uniform(0, 1, num_tokens // 32)
    utilities = NodeUtilities(num_tokens=num_tokens, block_size=32, raw=raw)
    budget = max(WorkingContext.cover(num_tokens, 32).cost, 32) + 31 * 40
    best = best_context(utilities, budget)
    check_invariants(best)
    assert best.cost <= budget
    shown = np.sort(raw[best.index[(best.lod == 0) & (best.costs == 32)]])
    assert value_of(best, utilities) == pytest.approx(shown.sum())
    if num_tokens <= 1024:
        np.testing.assert_array_equal(shown, np.sort(raw)[len(raw) - len(shown) :])


def test_a_deep_block_is_worth_its_way_down_only_when_nothing_nearer_adds_up_to_more():
    # Three expansions reach one block of the LOD3 node, or three blocks that stand in the cover already.
    size, num_tokens = 4, 4**3 + 3 * 4
    raw = np.zeros(19)
    raw[5], raw[16:] = 1.0, 0.3
    utilities = NodeUtilities(num_tokens=num_tokens, block_size=size, raw=raw)
    budget = WorkingContext.cover(num_tokens, size).cost + 3 * (size - 1)
    assert value_of(best_context(utilities, budget), utilities) == 1.0
    raw[16:] = 0.4
    utilities = NodeUtilities(num_tokens=num_tokens, block_size=size, raw=raw)
    assert value_of(best_context(utilities, budget), utilities) == pytest.approx(1.2)


def test_utilities_that_do_not_fit_their_tree_are_refused():
    with pytest.raises(
        ShapeError, match=r"raw must be one number per complete node, \(2,\), got float64 \(3,\)"
    ):
        NodeUtilities(num_tokens=64, block_size=32, raw=np.zeros(3))
    with pytest.raises(ShapeError, match=r"LOD1 .* \(2,\)"):
        NodeUtilities(num_tokens=64, block_size=32, raw=np.zeros(2), gists=(np.zeros(1),))
    with pytest.raises(ShapeError, match="have 1 levels of gists, got 2"):
        NodeUtilities(num_tokens=64, block_size=32, raw=np.zeros(2), gists=(np.zeros(2), np.zeros(0)))
    with pytest.raises(ConfigError, match="finite, raw has 1"):
        NodeUtilities(num_tokens=64, block_size=32, raw=np.array([0, np.nan]))
    utilities = NodeUtilities(num_tokens=64, block_size=32, raw=np.zeros(2))
    with pytest.raises(ShapeError, match="96 tokens"):
        value_of(WorkingContext.cover(96, 32), utilities)
    with pytest.raises(ValueError, match="read-only"):
        utilities.raw[0] = 1


def test_a_budget_below_what_is_pinned_is_refused():
    utilities = NodeUtilities(num_tokens=2048, block_size=32, raw=np.zeros(64))
    rules = Rules(pinned=((100, 164),))
    # Blocks 3, 4 and 5 as tokens, 29 + 1 gists beside them.
    assert best_context(utilities, 3 * 32 + 29 + 1, rules).cost == 126
    with pytest.raises(BudgetError, match=r"what is pinned .* got 125 positions"):
        best_context(utilities, 125, rules)
