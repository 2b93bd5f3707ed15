"""The named steps of a training step: what each promises, against brute force and against the deployed code."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_toys import SHAPE, book_source
from toys import K, random_bundle

from megacontext.errors import BudgetError, ConfigError
from megacontext.evals.focus_audit import answer_nll
from megacontext.focus.allocator import AllocatorConfig
from megacontext.focus.context import WorkingContext
from megacontext.index.addresses import AddressIndex
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.session import FocusConfig, Session
from megacontext.scoring.descendants import BestBelow
from megacontext.scoring.lens import Gaze, entry_features
from megacontext.train.joint.build import build, question_addresses, views
from megacontext.train.joint.horizon import IGNORED, Row, foretold, nats_of, pack
from megacontext.train.joint.passages import Ask, Passage, PassageSpec
from megacontext.train.joint.preference import directions, prefer, preference_loss, replaced
from megacontext.train.joint.sample import distance, recency_context, sample_contexts
from megacontext.train.joint.siblings import Sibling, blurred, siblings
from megacontext.tree import Memory

ALLOCATOR = AllocatorConfig(protect_recent_tokens=K)


@pytest.fixture(scope="module")
def source(tokenizer):
    return book_source(tokenizer)


def drawn(source, seed, **changes):
    return source.passage(np.random.default_rng(seed), dataclasses.replace(SHAPE, **changes))


def seen(bundle, passage):
    with torch.no_grad():
        trees = build(bundle, [passage.history])
        return views(trees, [passage.asks], question_addresses(bundle, passage.asks))


def memory_of(bundle, passage):
    encoder = BundleEncoder(bundle)
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(passage.history)
    return memory


def some_contexts(num_tokens, seed=0, budget=90, count=5):
    return sample_contexts(num_tokens, K, budget, count, np.random.default_rng(seed))


# passages


def test_plain_passages_are_cut_where_the_book_goes_on_and_ask_with_their_own_last_tokens(source):
    for seed in range(8):
        passage = drawn(source, seed, facts_share=0.0)
        (ask,) = passage.asks
        whole = np.concatenate((passage.history, ask.horizon))
        assert any(_holds(book, whole) for book in source.contexts.books)
        assert len(ask.horizon) == SHAPE.horizon and not len(ask.prompt)
        assert np.array_equal(ask.question, passage.history[-len(ask.question) :])


def _holds(book, ids):
    windows = np.lib.stride_tricks.sliding_window_view(book, len(ids))
    return bool((windows == ids).all(axis=1).any())


def test_planted_passages_ask_for_what_their_needed_blocks_say(source, tokenizer):
    asked = 0
    for seed in range(8):
        passage = drawn(source, seed, facts_share=1.0, horizon=40)
        for ask in passage.asks:
            answer = tokenizer.decode(ask.horizon).strip()
            first, last = ask.needed[0], ask.needed[-1]
            assert answer in tokenizer.decode(passage.history[first * K : (last + 1) * K])
            assert set(ask.needed) <= set(ask.holding) and ask.is_answer
            assert np.array_equal(ask.question, ask.prompt)
            asked += 1
    assert asked >= 8


def test_a_cloze_question_stands_in_its_block(source):
    for seed in range(8):
        passage = source.cloze(np.random.default_rng(seed), dataclasses.replace(SHAPE, facts_share=0.0))
        assert len(passage.asks) == SHAPE.asks
        for ask in passage.asks:
            (block,) = ask.needed
            assert _holds(passage.history[block * K : (block + 1) * K], ask.question)
            assert not len(ask.horizon) and not len(ask.prompt)


def test_books_that_are_too_short_are_refused(source):
    with pytest.raises(ConfigError, match=r"passages of 9999 blocks .* give longer books"):
        source.check(PassageSpec(min_blocks=1, max_blocks=9999))


# build


@pytest.mark.parametrize("blocks", [1, K - 1, K, K + 1, K * K, K * K + 1])
def test_a_tree_under_training_is_the_tree_that_a_memory_stores(bundle, source, blocks):
    passage = drawn(source, blocks, facts_share=0.0, min_blocks=blocks, max_blocks=blocks)
    (view,) = seen(bundle, passage)
    memory = memory_of(bundle, passage)
    for lod, level in enumerate(view.tree.levels, start=1):
        stored = memory.gists_at(np.full(len(level), lod), np.arange(len(level)))
        np.testing.assert_allclose(level.numpy(), stored, atol=4e-3)
    assert len(view.tree.levels) == len([n for n in _counts(len(passage.history)) if n]) - 1


def _counts(tokens):
    counts = []
    while tokens:
        counts.append(tokens)
        tokens //= K
    return counts


def test_lensnet_sees_under_training_what_it_sees_deployed(bundle, source):
    passage = drawn(source, 3, facts_share=1.0)
    memory = memory_of(bundle, passage)
    for view in seen(bundle, passage):
        matches = AddressIndex.of(memory).matches(view.question)
        gaze = Gaze(view.question, BestBelow(matches, memory.block_size))
        np.testing.assert_allclose(view.matches, matches, atol=2e-3)
        for context in some_contexts(len(passage.history)):
            mine = view.features(context)
            theirs = entry_features(context, memory, gaze)
            for field in dataclasses.fields(mine):
                np.testing.assert_allclose(
                    getattr(mine, field.name), getattr(theirs, field.name), atol=5e-3, err_msg=field.name
                )


def test_the_loss_at_the_horizon_reaches_gists_of_every_level_and_the_embeddings_below_them(
    tokenizer, source
):
    bundle = random_bundle(tokenizer)
    passage = drawn(source, 5, facts_share=0.0, min_blocks=K * K, max_blocks=K * K)
    trees = build(bundle, [passage.history])
    for lod in (1, 2, 3):
        context = WorkingContext.cover(len(passage.history), K)
        while context.lod[0] > lod:
            context = context.edited_at(expand=[0])
        for part in (bundle.base, bundle.gistnet):
            part.zero_grad()
        foretold(
            bundle.base, pack([Row(trees[0], context, passage.asks[0])], bundle.base, "context")
        ).sum().backward(retain_graph=True)
        assert all(weight.grad is not None and weight.grad.any() for weight in bundle.gistnet.parameters())
        read = np.unique(passage.history[:K])
        assert bundle.base.transformer["wte"].weight.grad[read].any(dim=1).all(), (
            "through the gist of the first block"
        )


# sample


@settings(max_examples=60)
@given(
    blocks=st.integers(1, 150),
    tail=st.integers(0, K - 1),
    spare=st.integers(0, 80),
    seed=st.integers(0, 2**20),
)
def test_sampled_contexts_tile_the_history_within_the_budget_and_differ(blocks, tail, spare, seed):
    tokens = blocks * K + tail
    cover = WorkingContext.cover(tokens, K)
    budget = cover.cost + spare
    contexts = sample_contexts(tokens, K, budget, 4, np.random.default_rng(seed))
    assert contexts[0] == recency_context(cover, budget), "the recency context is always among them"
    assert len(set(contexts)) == len(contexts) <= 4
    for context in contexts:
        context.validate()
        assert (context.num_tokens, context.start[0], context.stop[-1]) == (tokens, 0, tokens)
        assert context.cost <= budget
    same = sample_contexts(tokens, K, budget, 4, np.random.default_rng(seed))
    assert same == contexts, "the same state gives the same contexts"


def test_recency_opens_the_end_and_nothing_before_it():
    context = recency_context(WorkingContext.cover(40 * K, K), budget=60)
    levels = context.lod.tolist()
    assert levels == sorted(levels, reverse=True) and levels[-1] == 0
    assert 60 - (K - 1) < context.cost <= 60


def test_contexts_lie_further_apart_than_random_ones():
    apart, random = [], []
    for seed in range(12):
        chosen = some_contexts(60 * K, seed, budget=120, count=4)
        walks = some_contexts(60 * K, seed + 100, budget=120, count=12)
        apart.append(min(distance(a, b) for i, a in enumerate(chosen) for b in chosen[:i]))
        rng = np.random.default_rng(seed)
        four = [walks[which] for which in rng.permutation(len(walks))[:4]]
        random.append(min(distance(a, b) for i, a in enumerate(four) for b in four[:i]))
    assert np.mean(apart) > np.mean(random)


def test_a_budget_below_the_cover_is_refused():
    with pytest.raises(BudgetError, match="coarsest cover of 60 tokens, which costs 11, got 10"):
        sample_contexts(7 * K + 4, K, 10, 2, np.random.default_rng(0))


# siblings


def test_siblings_are_legal_different_and_their_steps_lead_there(bundle, source):
    found = 0
    for seed in range(6):
        passage = drawn(source, seed)
        for view in seen(bundle, passage):
            for context in some_contexts(len(passage.history), seed):
                noisy = blurred(view.scores(bundle.lens), context, 0.6, np.random.default_rng(seed))
                others = siblings(
                    context, noisy, 90, ALLOCATOR, 3, noise=0.6, max_steps=4, rng=np.random.default_rng(seed)
                )
                ends = [other.context for other in others]
                assert len({context, *ends}) == len(ends) + 1 <= 4
                for other in others:
                    replayed = context
                    for step in other.steps:
                        assert step.context == replayed
                        replayed = replayed.apply(step.edits, 90)
                    assert replayed == other.context and replayed.cost <= 90
                found += len(others)
    assert found > 30


def test_the_first_sibling_is_what_would_be_deployed(bundle, source):
    passage = drawn(source, 2, facts_share=1.0)
    memory = memory_of(bundle, passage)
    ask = passage.asks[0]
    session = Session(bundle, memory, FocusConfig(budget=90, allocator=ALLOCATOR))
    deployed = session.focus(ask.prompt).context
    view = seen(bundle, passage)[0]
    cover = WorkingContext.cover(len(passage.history), K)
    others = siblings(
        cover,
        view.scores(bundle.lens),
        90 - len(ask.prompt),
        ALLOCATOR,
        1,
        noise=0.0,
        max_steps=16,
        rng=np.random.default_rng(0),
    )
    assert deployed != cover, "random networks open something"
    assert others[0].context == deployed


# horizon


def test_the_horizon_is_foretold_as_the_deployed_path_reads_it(bundle, source):
    passage = drawn(source, 4, facts_share=1.0)
    memory = memory_of(bundle, passage)
    session = Session(bundle, memory, FocusConfig(budget=120))
    for view in seen(bundle, passage):
        ask = view.ask
        contexts = some_contexts(len(passage.history), budget=120 - len(ask.prompt))
        mine = nats_of([Row(view.tree, context, ask) for context in contexts], bundle.base, "context")
        theirs = answer_nll(session, contexts, ask.prompt, ask.horizon)
        np.testing.assert_allclose(mine, theirs, rtol=2e-3)


def test_a_row_has_the_same_nats_alone_and_among_longer_ones(bundle, source):
    rows = []
    for seed in range(4):
        passage = drawn(source, seed, horizon=20)
        for view in seen(bundle, passage):
            rows += [
                Row(view.tree, context, view.ask) for context in some_contexts(len(passage.history), seed)
            ]
    assert len({len(row.ask.horizon) for row in rows}) > 1
    together = nats_of(rows, bundle.base, "context")
    alone = [nats_of([row], bundle.base, "context")[0] for row in rows]
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_each_target_is_the_token_after_what_foretells_it_and_is_read_only_afterwards(bundle, source):
    passage = drawn(source, 1, facts_share=0.0)
    view = seen(bundle, passage)[0]
    context, ask = some_contexts(len(passage.history))[1], view.ask
    packed = pack([Row(view.tree, context, ask)], bundle.base, "context")
    horizon = len(ask.horizon)
    assert packed.ids[0, -horizon:].tolist() == ask.horizon.tolist() == packed.targets[0].tolist()
    before = foretold(bundle.base, packed)[0]
    for place in range(horizon):
        changed = ask.horizon.copy()
        changed[place] += 1
        row = Row(view.tree, context, dataclasses.replace(ask, horizon=changed))
        after = foretold(bundle.base, pack([row], bundle.base, "context"))[0]
        differs = (after - before).abs() > 1e-5
        assert not differs[:place].any(), "nothing before it knows of it"
        assert differs[place], "it is foretold itself"
        assert place + 1 == horizon or differs[place + 1], "and is read by what comes after"


def test_shorter_horizons_are_filled_on_the_left_and_filling_is_no_target(bundle, source):
    passage = drawn(source, 1, facts_share=0.0)
    view = seen(bundle, passage)[0]
    short = dataclasses.replace(view.ask, horizon=view.ask.horizon[:2])
    context = some_contexts(len(passage.history))[0]
    packed = pack([Row(view.tree, context, one) for one in (view.ask, short)], bundle.base, "context")
    assert (packed.targets[1, :-2] == IGNORED).all() and (packed.targets[1, -2:] >= 0).all()
    nats = foretold(bundle.base, packed)
    assert not nats[1, :-2].any()
    torch.testing.assert_close(nats[1, -2:], nats[0, :2], rtol=1e-4, atol=1e-4)


def test_what_comes_after_the_span_end_changes_nothing_before_the_horizon(bundle, source):
    """Trees, contexts, scores and siblings are the same whatever is to be foretold."""
    passage = drawn(source, 6, facts_share=0.0)
    (ask,) = passage.asks
    other = Passage(passage.history, (dataclasses.replace(ask, horizon=ask.horizon[::-1] + 1),))

    def made(of):
        (view,) = seen(bundle, of)
        contexts = some_contexts(len(of.history))
        score = view.scores(bundle.lens)
        rng = np.random.default_rng(0)
        near = [
            siblings(context, score, 90, ALLOCATOR, 2, noise=0.5, max_steps=4, rng=rng)
            for context in contexts
        ]
        return (
            [level.tolist() for level in view.tree.levels],
            view.tree.addresses.tolist(),
            view.question.tolist(),
            [score(context).tolist() for context in contexts],
            [[one.context for one in of_context] for of_context in near],
        )

    assert made(passage) == made(other)


# preference


@settings(max_examples=40)
@given(seed=st.integers(0, 2**20))
def test_directions_say_where_another_context_is_finer_or_coarser(seed):
    rng = np.random.default_rng(seed)
    tokens = int(rng.integers(K, 90 * K))
    one, other = (sample_contexts(tokens, K, 110, 6, rng)[-1] for _ in range(2))
    theirs = other.lod[other.slot_of(np.arange(tokens))]
    for slot, direction in enumerate(directions(one, other).tolist()):
        levels = set(theirs[one.start[slot] : one.stop[slot]].tolist())
        finer, coarser = min(levels) < one.lod[slot], max(levels) > one.lod[slot]
        assert direction == (1 if finer else -1 if coarser else 0)


def test_replaced_counts_new_positions():
    cover = WorkingContext.cover(3 * K, K)
    opened = cover.edited_at(expand=[1])
    assert replaced(cover, cover) == 0.0
    assert replaced(cover, opened) == K / (K + 2) and replaced(opened, cover) == 1 / 3


def test_the_better_neighbour_must_earn_what_it_replaces():
    cover = WorkingContext.cover(3 * K, K)
    ends = [cover.edited_at(expand=[0]), cover.edited_at(expand=[1, 2])]
    middle = cover.edited_at(expand=[1])
    others = [_sibling(cover, ends[0]), _sibling(cover, middle, ends[1])]
    price, dear = 0.2 * K / (K + 2), 0.2 * 2 * K / (2 * K + 1)
    chosen = prefer(cover, 3.0, others, np.array([3.0 - price - 0.01, 2.9 - dear]), 0.2)
    assert chosen.best == 1 and chosen.gain == pytest.approx(0.1)
    assert [lesson.context for lesson in chosen.lessons] == [cover, middle], "all of the way, but its end"
    assert [lesson.targets.tolist() for lesson in chosen.lessons] == [[0, 1, 1], [0, 0, 1]]
    kept = prefer(cover, 3.0, others, np.array([3.0 - price + 0.01, 3.5]), 0.2)
    assert kept.best is None and kept.gain == 0.0
    assert [lesson.targets.tolist() for lesson in kept.lessons] == [[-1, -1, -1]], (
        "not where the siblings went"
    )
    alone = prefer(cover, 3.0, [], np.zeros(0), 0.2)
    assert alone.best is None and not alone.lessons


def _sibling(*way):
    return Sibling(way[-1], tuple(SimpleNamespace(context=context) for context in way))


def test_the_preference_loss_pulls_towards_its_targets_and_leaves_the_rest():
    logits = torch.zeros(2, 3, requires_grad=True)
    preference_loss(logits, torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])).backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]
    assert not logits.grad[0, 2] and not logits.grad[1].any()
    assert preference_loss(torch.zeros(1, 2), torch.zeros(1, 2)) == 0


def test_a_view_names_the_best_block_below_a_gist(bundle, source):
    passage = drawn(source, 9, facts_share=0.0, min_blocks=2 * K, max_blocks=2 * K)
    view = seen(bundle, passage)[0]
    cover = WorkingContext.cover(len(passage.history), K)
    for slot in range(2):
        below = view.matches[slot * K : (slot + 1) * K]
        assert view.best_block(cover, slot) == slot * K + below.argmax()


def test_an_ask_longer_than_the_address_reads_is_cut_to_its_end(bundle):
    longest = bundle.config.address.longest_question
    ids = np.arange(longest + 9, dtype=np.int32) % 100
    asks = [Ask(ids[:0], ids[:0], ids), Ask(ids[:0], ids[:0], ids[-longest:]), Ask(ids[:0], ids[:0], ids[:3])]
    with torch.no_grad():
        found = question_addresses(bundle, asks)
    torch.testing.assert_close(found[0], found[1])
    theirs = BundleEncoder(bundle).encode_question(ids[:3])
    np.testing.assert_allclose(found[2].numpy(), theirs, atol=1e-5)
