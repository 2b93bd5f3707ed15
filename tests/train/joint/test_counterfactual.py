"""What an edit is worth: measured as the deployed path would, claimed by the right entries, and learnt."""

import dataclasses

import numpy as np
import pytest
import torch
from joint_toys import SHAPE, book_source
from toys import K

from megacontext.errors import ConfigError
from megacontext.evals.focus_audit import answer_nll
from megacontext.focus.allocator import AllocatorConfig
from megacontext.focus.context import WorkingContext
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.session import FocusConfig, Session
from megacontext.train.joint.build import build, question_addresses, views
from megacontext.train.joint.counterfactual import (
    CounterfactualConfig,
    Measured,
    counterfactual_loss,
    counterfactuals,
    legal,
    measure,
    targets_of,
    walked,
)
from megacontext.train.joint.sample import sample_contexts
from megacontext.tree import Memory

ALLOCATOR = AllocatorConfig(protect_recent_tokens=K)
EVERYTHING = CounterfactualConfig(edits=99, pairs=3)
BUDGET = 150


@pytest.fixture(scope="module")
def view(bundle, tokenizer):
    source = book_source(tokenizer)
    rng = np.random.default_rng(0)
    passage = source.passage(rng, dataclasses.replace(SHAPE, facts_share=1.0, min_blocks=20, max_blocks=20))
    with torch.no_grad():
        trees = build(bundle, [passage.history])
        return views(trees, [passage.asks[:1]], question_addresses(bundle, passage.asks[:1]))[0]


def contexts_of(view, count=5, budget=110):
    room = budget - len(view.ask.prompt)
    return sample_contexts(view.tree.num_tokens, K, room, count, np.random.default_rng(0))


def measured(view, bundle, context, config=EVERYTHING, budget=BUDGET):
    scores = view.scores(bundle.lens)(context)
    rng = np.random.default_rng(0)
    return measure(view, context, scores, bundle.base, "context", budget, ALLOCATOR, config, rng)


def session_of(view, bundle):
    encoder = BundleEncoder(bundle)
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(view.tree.history)
    return Session(bundle, memory, FocusConfig(budget=BUDGET + 200))


def test_a_rate_is_what_the_deployed_path_saves_by_the_edit_over_what_it_costs(view, bundle):
    session = session_of(view, bundle)
    alone = dataclasses.replace(EVERYTHING, pairs=0)
    for context in contexts_of(view):
        weighed = measured(view, bundle, context, alone)
        for slot in np.flatnonzero(~np.isnan(weighed.rate)).tolist():
            if context.lod[slot]:
                edited = context
                block = view.best_block(context, slot)
                while edited.lod[at := int(edited.slot_of(np.array([block * K]))[0])]:
                    edited = edited.edited_at(expand=[at])
                finer, coarser = edited, context
            else:
                finer, coarser = context, context.edited_at(collapse=[slot])
            without, with_detail = answer_nll(session, [coarser, finer], view.ask.prompt, view.ask.horizon)
            rate = (without - with_detail) / (finer.cost - coarser.cost)
            assert weighed.rate[slot] == pytest.approx(rate, abs=2e-3)


def test_every_edit_that_the_allocator_may_make_and_none_other_is_measured(view, bundle):
    seen_raw = 0
    for context in contexts_of(view):
        weighed = measured(view, bundle, context)
        may_expand, may_fold = legal(context, ALLOCATOR)
        room = BUDGET - len(view.ask.prompt) - context.cost
        affordable = np.where(context.lod > 0, context.lod * (K - 1), 0) <= room
        expected = (may_expand | may_fold) & affordable
        assert (~np.isnan(weighed.rate) == expected).all()
        protected = context.stop > context.num_tokens - K
        assert not may_fold[protected].any(), "the last tokens are never folded"
        assert not may_expand[context.lod == 0].any()
        seen_raw += int(may_fold.sum())
    assert seen_raw


def test_nothing_is_read_beyond_the_budget(view, bundle, monkeypatch):
    import megacontext.train.joint.counterfactual as module

    rows = []

    def spy(given, *rest):
        rows.extend(given)
        return np.zeros(len(given))

    monkeypatch.setattr(module, "nats_of", spy)
    for budget in (110, 118, BUDGET):
        rows.clear()
        for context in contexts_of(view, budget=110):
            measured(view, bundle, context, budget=budget)
        assert len(rows) > 5 and max(row.context.cost for row in rows) <= budget - len(view.ask.prompt)


def test_a_pair_is_claimed_by_both_and_the_best_rate_counts(view, bundle, monkeypatch):
    import megacontext.train.joint.counterfactual as module

    context = WorkingContext.cover(view.tree.num_tokens, K)
    while len(coarse := np.flatnonzero(context.lod > 1)):
        context = context.edited_at(expand=[int(coarse[0])])
    slot = int(np.flatnonzero(context.lod == 1)[3])
    edits = counterfactuals(view, context, [slot, slot + 1], [slot], room=10**6)
    assert [edit.slots for edit in edits] == [(slot,), (slot + 1,), (slot - 1, slot), (slot, slot + 1)]
    assert [edit.cost for edit in edits] == [K - 1, K - 1, 2 * (K - 1), 2 * (K - 1)]
    afforded = counterfactuals(view, context, [slot, slot + 1], [slot], room=K - 1)
    assert [edit.slots for edit in afforded] == [(slot,), (slot + 1,)]

    # The halves harm, together they save much.
    def nats(rows, *_):
        opened = [frozenset(np.flatnonzero(context.lod > 0)) - _still(row.context, context) for row in rows]
        worth = {frozenset({slot}): -1.0, frozenset({slot + 1}): -2.0, frozenset({slot, slot + 1}): 8.0}
        return np.array([5.0 - worth.get(one, 0.0) for one in opened])

    monkeypatch.setattr(module, "nats_of", nats)
    weighed = measured(view, bundle, context, dataclasses.replace(EVERYTHING, pairs=99), budget=10**6)
    assert weighed.rate[slot] == weighed.rate[slot + 1] == pytest.approx(8.0 / (2 * (K - 1)))
    assert weighed.rate[slot + 2] <= 0.0


def _still(edited, context):
    """Slots of `context` that `edited` still shows as they were."""
    nodes = set(zip(edited.lod.tolist(), edited.index.tolist(), strict=True))
    pairs = zip(context.lod.tolist(), context.index.tolist(), strict=True)
    return {slot for slot, node in enumerate(pairs) if node in nodes}


def test_contexts_come_from_refocuses_within_the_budget(view, bundle):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6):
        found += walked(view, bundle.lens, 100, ALLOCATOR, EVERYTHING, max_steps=6, rng=rng)
    assert all(context.cost + len(view.ask.prompt) <= 100 for context in found)
    cover = WorkingContext.cover(view.tree.num_tokens, K)
    assert len({*found, cover}) > 3, "the walks lead away from the cover"


def test_targets_are_nats_per_block_in_logits_cut_at_both_ends():
    config = CounterfactualConfig(scale_nats=2.0, most=3.0)
    cover = WorkingContext.cover(4 * K, K)
    rate = np.array([1.0, -9.0, np.nan, 0.1])
    targets = targets_of(Measured(None, cover, rate, cover.lod > 0, 50), config)
    assert targets[:2].tolist() == [3.0, -3.0] and np.isnan(targets[2])
    assert targets[3] == pytest.approx(0.1 * (K - 1) / 2)


# The loss.

TARGETS = torch.tensor([[2.0, -1.0, float("nan"), 0.5]])


def loss_at(logits, room=99.0, **weights):
    config = CounterfactualConfig(**weights)
    cost = torch.full((1, 4), float(K - 1))
    return counterfactual_loss(torch.as_tensor(logits), TARGETS, cost, torch.tensor([room]), config)


def test_the_loss_is_least_at_the_targets_and_a_constant_score_is_worse():
    right = loss_at([[2.0, -1.0, 0.0, 0.5]])
    for constant in (-1.0, 0.0, 0.5, 2.0):
        assert loss_at([[constant] * 4]) > right + 0.5
    assert loss_at([[-2.0, 1.0, 0.0, -0.5]]) > right + 2


def test_what_was_not_measured_has_no_gradient_but_that_of_the_budget():
    logits = torch.zeros(1, 4, requires_grad=True)
    loss_at(logits, budget_weight=0.0).backward()
    assert logits.grad[0, [0, 1, 3]].all() and not logits.grad[0, 2]
    logits.grad = None
    loss_at(logits, room=1.0, budget_weight=1.0).backward()
    assert logits.grad[0, 2] > 0, "wanting more than there is room for is pushed down"


def test_ranking_alone_orders_and_does_not_mind_a_shift():
    only = {"regression_weight": 0.0, "budget_weight": 0.0}
    ordered, shifted = loss_at([[2.0, -1.0, 0.0, 0.5]], **only), loss_at([[7.0, 4.0, 0.0, 5.5]], **only)
    torch.testing.assert_close(ordered, shifted)
    assert loss_at([[-1.0, 2.0, 0.0, 0.5]], **only) > ordered + 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"edits": 0}, "edits and contexts of at least 1"),
        ({"blurred_share": 1.5}, r"blurred_share in \[0, 1\]"),
        ({"scale_nats": 0.0}, "must be positive"),
        ({"regression_weight": 0.0, "ranking_weight": 0.0}, "learns nothing"),
        ({"budget_weight": -1.0}, "must not be negative"),
    ],
)
def test_a_wrong_number_is_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        CounterfactualConfig(**wrong)
