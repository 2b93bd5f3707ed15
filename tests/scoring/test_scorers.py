"""Every scorer feeds the one allocator: right shape, right range, within the budget; each does what it says."""

import numpy as np
import pytest
import torch
from toys import K

from megacontext.errors import ConfigError
from megacontext.focus import AllocatorConfig, AllocatorState, Edit, WorkingContext, refocus
from megacontext.models.attention_mass import AttentionWatch
from megacontext.runtime.gist_reading import AttentionToGists
from megacontext.runtime.reading import read, stack
from megacontext.scoring import SCORERS, Question, ScorerParts
from megacontext.scoring.mass import mass_scores
from megacontext.tree import Memory

BUDGET = 96
NAMES = (
    "recency", "sinks+recency", "random", "oracle", "dense", "gist-attention", "gist-attention-beam", "lensnet",
    "lensnet-hops", "bm25", "bm25-last", "lensnet+bm25", "lensnet+bm25-last", "dense+bm25", "attention+bm25",
    "attention", "infllm-style",
)  # fmt: skip


@pytest.fixture(scope="module")
def parts(memory, tokenizer, encoder, bundle):
    return parts_of(memory, tokenizer, encoder, bundle)


def parts_of(memory, tokenizer, encoder, bundle, **changes):
    given = {
        "memory": memory, "tokenizer": tokenizer, "encoder": encoder, "lens": bundle.lens,
        "room_blocks": BUDGET // K, "seed": 0, "attention": mass_reader(memory, bundle),
        "gists": AttentionToGists(bundle.base, memory, bundle.config.positions, cached_gists=False),
    }  # fmt: skip
    return ScorerParts(**(given | changes))


def mass_reader(memory, bundle):
    """The context and the prompt read by the model, watched."""

    def mass(context, prompt):
        batch = stack([read(context, memory, prompt, bundle.config.positions)], bundle.base)
        cache = bundle.base.reserve(1, batch.ids.shape[1])
        with torch.inference_mode(), AttentionWatch(bundle.base, queries=4) as watch:
            bundle.base(batch.embeddings, batch.positions, ids=batch.ids, cache=cache)
            return watch.mass(cache)[0].numpy()

    return mass


def ask(planted, tokenizer, number=0, **changes):
    question = planted.questions[number]
    needed = tuple(range(question.needed.start // K, (question.needed.stop - 1) // K + 1))
    given = {"number": number, "ids": tokenizer.encode(question.prompt), "needed_blocks": needed}
    return Question(**(given | changes))


def focused(score, memory, budget=BUDGET, max_steps=40):
    start = WorkingContext.cover(memory.num_tokens, K)
    return refocus(start, score, budget, AllocatorState(), AllocatorConfig(), max_steps)


def raw_blocks(context):
    """Full blocks that are shown as tokens."""
    return np.flatnonzero(context.is_raw(np.arange(context.num_tokens // K))).tolist()


def test_these_scorers_are_registered():
    assert tuple(SCORERS.names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_scorer_gives_a_finite_score_in_range_for_every_entry(name, parts, planted, tokenizer):
    score = SCORERS.get(name)(parts).ask(ask(planted, tokenizer))
    tokens = parts.memory.num_tokens
    for context in (
        WorkingContext.cover(tokens, K),
        WorkingContext.raw(tokens, K),
        focused(score, parts.memory)[-1].context,
    ):
        scores = np.asarray(score(context))
        assert scores.shape == (len(context),)
        assert np.isfinite(scores).all() and np.abs(scores).max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [40, 64, BUDGET, 200])
def test_a_scorer_feeds_the_allocator_within_the_budget(name, budget, parts, planted, tokenizer):
    steps = focused(SCORERS.get(name)(parts).ask(ask(planted, tokenizer)), parts.memory, budget)
    assert all(step.context.cost <= budget for step in steps)
    assert not steps[-1].edits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [0, 1, K - 1, K, K + 1])
def test_a_short_history_can_be_scored_too(name, tokens, tokenizer, encoder, bundle, planted):
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(planted.ids[:tokens])
    asked = ask(planted, tokenizer, needed_blocks=())
    score = SCORERS.get(name)(parts_of(memory, tokenizer, encoder, bundle)).ask(asked)
    for context in (WorkingContext.cover(tokens, K), WorkingContext.raw(tokens, K)):
        assert np.shape(score(context)) == (len(context),)


def test_recency_ends_with_the_newest_blocks_raw(parts, planted, tokenizer):
    final = focused(SCORERS.get("recency")(parts).ask(ask(planted, tokenizer)), parts.memory)[-1].context
    raw, blocks = raw_blocks(final), parts.memory.num_blocks
    assert len(raw) >= 3 and raw == list(range(blocks - len(raw), blocks))
    assert BUDGET - final.cost < 2 * K, "and spends the budget on them"


def test_sinks_and_recency_keep_the_first_block_and_the_newest(parts, planted, tokenizer):
    score = SCORERS.get("sinks+recency")(parts).ask(ask(planted, tokenizer))
    raw, blocks = raw_blocks(focused(score, parts.memory)[-1].context), parts.memory.num_blocks
    assert raw[0] == 0 and len(raw) >= 3
    assert raw[1:] == list(range(blocks - len(raw) + 1, blocks))


def test_whole_units_of_128_tokens_are_worth_the_mean_of_their_addresses(parts, planted, tokenizer):
    asked, blocks = ask(planted, tokenizer), 128 // K
    units = SCORERS.get("infllm-style")(parts).block_values(asked)
    single = SCORERS.get("dense")(parts).block_values(asked)
    assert len(units) == parts.memory.num_blocks and len(units) % blocks, "the last unit is not a full one"
    for start in range(0, len(units), blocks):
        assert units[start : start + blocks] == pytest.approx(single[start : start + blocks].mean(), abs=1e-6)
    assert len(set(units.tolist())) == -(-len(units) // blocks)


def test_random_differs_by_question_and_by_seed_and_repeats(parts, planted, tokenizer, encoder, bundle):
    def scores(seed, number):
        made = SCORERS.get("random")(parts_of(parts.memory, tokenizer, encoder, bundle, seed=seed))
        return made.block_scores(ask(planted, tokenizer, number=number)).tolist()

    assert scores(0, 1) == scores(0, 1)
    assert scores(0, 1) != scores(0, 2) and scores(0, 1) != scores(1, 1)


def test_random_draws_every_block_alike(parts, planted, tokenizer):
    scorer, asked = SCORERS.get("random")(parts), ask(planted, tokenizer)
    wanted = np.zeros(parts.memory.num_blocks)
    for number in range(400):
        asked = Question(number=number, ids=asked.ids)
        wanted += scorer.block_scores(asked) > 0
    share = parts.room_blocks / parts.memory.num_blocks
    assert np.abs(wanted / 400 - share).max() < 5 * np.sqrt(share * (1 - share) / 400)


@pytest.mark.parametrize("number", range(8))
def test_the_oracle_opens_exactly_the_needed_blocks(number, parts, planted, tokenizer):
    asked = ask(planted, tokenizer, number=number)
    final = focused(SCORERS.get("oracle")(parts).ask(asked), parts.memory, budget=160)[-1].context
    finished = [block for block in asked.needed_blocks if block < parts.memory.num_blocks]
    assert raw_blocks(final) == finished


def test_only_the_oracle_looks_at_the_needed_blocks(parts, planted, tokenizer):
    context = WorkingContext.cover(parts.memory.num_tokens, K)
    for name in NAMES:
        told, untold = (
            SCORERS.get(name)(parts).ask(ask(planted, tokenizer, needed_blocks=needed))(context)
            for needed in ((3, 4), ())
        )
        assert np.array_equal(told, untold) == (name != "oracle"), name


def test_bm25_finds_the_block_that_holds_the_rare_word_of_the_question(tokenizer, encoder, bundle):
    text = "The cat sat on the mat and the dog lay by the door. " * 12
    ids = tokenizer.encode(text)
    rare = tokenizer.encode(" Zebulon")
    at = 17 * K + 2
    assert len(rare) <= K - 2, "the word fits into block 17"
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(np.concatenate((ids[:at], rare, ids[at:])))
    scorer = SCORERS.get("bm25")(parts_of(memory, tokenizer, encoder, bundle))
    asked = Question(number=0, ids=tokenizer.encode("\nQuestion: Where did Zebulon sit?\nAnswer:"))
    # The next block sees the word as well, in the few tokens before it that its address sees, too.
    assert scorer.block_scores(asked).argmax() in (17, 18)
    final = focused(scorer.ask(asked), memory)[-1].context
    assert 17 in raw_blocks(final)


def test_bm25_of_the_last_words_does_not_look_for_what_was_asked_first(tokenizer, encoder, bundle):
    ids = tokenizer.encode("The cat sat on the mat and the dog lay by the door. " * 12)
    first, last = (tokenizer.encode(name) for name in (" Zebulon", " Quirk"))
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(
        np.concatenate((ids[: 5 * K + 2], first, ids[5 * K + 2 : 20 * K + 2], last, ids[20 * K + 2 :]))
    )
    said = tokenizer.encode("\nQuestion: Where did Zebulon sit?\nAnswer:" + " well well" * 20 + " Quirk")
    for name, wanted in (("bm25", {5, 6}), ("bm25-last", {20, 21})):
        values = SCORERS.get(name)(parts_of(memory, tokenizer, encoder, bundle)).block_values(
            Question(number=0, ids=said)
        )
        matching = set(np.flatnonzero(values > 0).tolist())
        assert wanted & matching, name
        assert name == "bm25" or not matching & {5, 6}


def test_bm25_reads_a_block_with_the_tokens_before_it_that_its_address_sees(tokenizer, encoder, bundle):
    memory = Memory.create(None, encoder.identity(), encoder)
    filler = tokenizer.encode(" and so on" * 40)
    word = tokenizer.encode(" Zebulon")
    # The word ends where block 3 begins: cut off from what follows it, unless block 3 is read with what is before.
    at = 3 * K - len(word)
    memory.append(np.concatenate((filler[:at], word, filler))[: 12 * K])
    scorer = SCORERS.get("bm25")(parts_of(memory, tokenizer, encoder, bundle))
    tail_of_word = tokenizer.decode(word[-memory.left_tokens :]).strip()
    found = scorer.block_values(Question(number=0, ids=tokenizer.encode(tail_of_word)))
    assert found[3] > 0, "block 3 holds the end of the word only through its left tokens"


def test_the_hybrid_wants_at_least_what_lensnet_wants_and_half_of_bm25(parts, planted, tokenizer):
    context, asked = WorkingContext.cover(parts.memory.num_tokens, K), ask(planted, tokenizer)
    lens, bm25, both = (
        SCORERS.get(name)(parts).ask(asked)(context) for name in ("lensnet", "bm25", "lensnet+bm25")
    )
    np.testing.assert_array_equal(both, np.maximum(lens, 0.5 * bm25))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_raw_is_never_expanded_however_it_scores(name, parts, planted, tokenizer):
    steps = focused(SCORERS.get(name)(parts).ask(ask(planted, tokenizer)), parts.memory)
    for step in steps:
        assert all(step.context.lod[edit.slot] > 0 for edit in step.edits if edit.kind == "expand")


@pytest.mark.parametrize(
    "name", ["dense", "bm25", "lensnet", "dense+bm25", "attention", "attention+bm25", "gist-attention"]
)
def test_an_old_entry_scores_otherwise_when_the_question_is_another(name, parts, planted, tokenizer):
    context = WorkingContext.cover(parts.memory.num_tokens, K)
    for _ in range(4):
        context = context.edited([Edit("expand", int(np.flatnonzero(context.lod)[0]))])
    scorer = SCORERS.get(name)(parts)
    one, other = (scorer.ask(ask(planted, tokenizer, number))(context) for number in (0, 5))
    assert (one[: len(context) // 2] != other[: len(context) // 2]).any()


def test_dense_wants_the_blocks_whose_addresses_match_best(parts, planted, tokenizer, encoder):
    asked = ask(planted, tokenizer)
    matches = parts.memory.addresses() @ encoder.encode_question(asked.ids)
    scores = SCORERS.get("dense")(parts).block_scores(asked)
    wanted = np.flatnonzero(scores > 0)
    assert sorted(wanted) == sorted(np.argsort(matches)[-parts.room_blocks :])
    assert scores.argmax() == matches.argmax()


def test_a_fusion_of_blocks_is_reciprocal_rank_over_the_history(parts, planted, tokenizer):
    asked = ask(planted, tokenizer)
    dense, bm25 = (SCORERS.get(name)(parts).block_values(asked) for name in ("dense", "bm25"))
    fused = np.zeros(len(dense))
    for values in (dense, bm25):
        order = sorted(range(len(values)), key=lambda block: (-values[block], -block))
        for rank, block in enumerate(order, start=1):
            fused[block] += 1 / (60 + rank) if values[block] > -np.inf else 0.0
    found = SCORERS.get("dense+bm25")(parts).block_values(asked)
    np.testing.assert_allclose(found, fused, rtol=1e-12)


def test_a_fusion_of_entries_ranks_those_of_one_context(parts, planted, tokenizer):
    context, asked = WorkingContext.cover(parts.memory.num_tokens, K), ask(planted, tokenizer)
    one, other, both = (
        SCORERS.get(name)(parts).ask(asked)(context) for name in ("attention", "bm25", "attention+bm25")
    )

    def ranks(values):
        order = sorted(range(len(values)), key=lambda slot: (-values[slot], -slot))
        return np.argsort(order) + 1

    fused = 1 / (60 + ranks(one)) + 1 / (60 + ranks(other))
    assert both.argmax() == fused.argmax() and (np.diff(both[np.argsort(fused)]) >= 0).all()


def test_attention_needs_a_reader(parts, tokenizer, encoder, bundle):
    without = parts_of(parts.memory, tokenizer, encoder, bundle, attention=None)
    with pytest.raises(ConfigError, match="a model that reads the context"):
        SCORERS.get("attention")(without)


def test_mass_over_its_share_is_a_positive_score_and_less_is_negative():
    # Entries of 1, 1, 1 and K positions; the first is the sink.
    context = WorkingContext(np.array([1, 1, 1, 0]), np.array([0, 1, 2, 3]), 4 * K, K)
    even = np.full(context.cost, 0.1)
    even[0] = 5.0
    assert mass_scores(context, even).tolist() == pytest.approx([0, 0, 0, 0], abs=1e-6)
    mass = np.zeros(context.cost)
    mass[[0, 1]] = 5.0, 0.2
    mass[3:] = 0.2 / K * 8.0 / 8.0
    found = mass_scores(context, mass)
    share = mass[1:].sum() / (context.cost - 1)
    assert found[0] == 0 and found[2] == -1
    assert found[1] == pytest.approx((0.2 / share - 1) / (0.2 / share + 1))
    assert mass_scores(context, np.zeros(context.cost)).tolist() == [0] * 4, "no mass, no opinion"
    raw = WorkingContext.raw(3, K)
    assert mass_scores(raw, np.array([0.9, 0.1, 0.1])).tolist() == [0.0]
