"""Every scorer feeds the one allocator: right shape, right range, within the budget; each does what it says."""

import numpy as np
import pytest
from toys import K

from megacontext.focus import AllocatorConfig, AllocatorState, WorkingContext, refocus
from megacontext.scoring import SCORERS, Question, ScorerParts
from megacontext.tree import Memory

BUDGET = 96
NAMES = ("recency", "sinks+recency", "random", "oracle", "bm25", "lensnet", "lensnet+bm25")


@pytest.fixture(scope="module")
def parts(memory, tokenizer, encoder, bundle):
    return parts_of(memory, tokenizer, encoder, bundle)


def parts_of(memory, tokenizer, encoder, bundle, **changes):
    given = {
        "memory": memory, "tokenizer": tokenizer, "encoder": encoder, "lens": bundle.lens,
        "room_blocks": BUDGET // K, "seed": 0,
    }  # fmt: skip
    return ScorerParts(**(given | changes))


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


def test_bm25_reads_a_block_with_the_tokens_before_it_that_its_address_sees(tokenizer, encoder, bundle):
    memory = Memory.create(None, encoder.identity(), encoder)
    filler = tokenizer.encode(" and so on" * 40)
    word = tokenizer.encode(" Zebulon")
    # The word ends where block 3 begins: cut off from what follows it, unless block 3 is read with what is before.
    at = 3 * K - len(word)
    memory.append(np.concatenate((filler[:at], word, filler))[: 12 * K])
    scorer = SCORERS.get("bm25")(parts_of(memory, tokenizer, encoder, bundle))
    tail_of_word = tokenizer.decode(word[-memory.left_tokens :]).strip()
    found = scorer._index.get_scores([tail_of_word.lower()])
    assert found[3] > 0, "block 3 holds the end of the word only through its left tokens"


def test_the_hybrid_wants_at_least_what_lensnet_wants_and_half_of_bm25(parts, planted, tokenizer):
    context, asked = WorkingContext.cover(parts.memory.num_tokens, K), ask(planted, tokenizer)
    lens, bm25, both = (
        SCORERS.get(name)(parts).ask(asked)(context) for name in ("lensnet", "bm25", "lensnet+bm25")
    )
    np.testing.assert_array_equal(both, np.maximum(lens, 0.5 * bm25))
