"""A session reads any history within its budget, and is the plain model where the history fits."""

import numpy as np
import pytest
import torch
from toys import K, ids_of

from megacontext.errors import BudgetError, ConfigError, ShapeError, UnknownVariantError
from megacontext.focus import AllocatorConfig, WorkingContext
from megacontext.models.gpt import KVCache
from megacontext.runtime.decoding import decode_greedily
from megacontext.runtime.reading import stack
from megacontext.runtime.session import FocusConfig, Session, starting_context
from megacontext.scoring import Question
from megacontext.tree import Memory

QUESTION = "\nQuestion: What is the crest of Mrs Tolverick?\nAnswer:"


def session_over(bundle, encoder, ids, budget=96, **options):
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids)
    return Session(bundle, memory, FocusConfig(budget=budget), **options)


def test_when_the_history_fits_the_session_is_the_plain_model(bundle, encoder, tokenizer):
    ids, prompt = ids_of(5 * K + 3), tokenizer.encode(QUESTION)
    session = session_over(bundle, encoder, ids, budget=len(ids) + len(prompt))
    focus = session.focus(prompt)
    assert not focus.steps and focus.context == WorkingContext.raw(len(ids), K)
    batch = stack([session.read(focus.context, prompt)], bundle.base)
    assert batch.padding is None and (batch.ids >= 0).all()
    row = torch.from_numpy(np.concatenate((ids, prompt)).astype(np.int64))[None]
    with torch.inference_mode():
        read = bundle.base(batch.embeddings, batch.positions, ids=batch.ids, padding=batch.padding)
        plain = bundle.base(bundle.base.embed(row), torch.arange(row.shape[1])[None], ids=row)
        assert torch.equal(bundle.base.unembed(read), bundle.base.unembed(plain))


def test_one_token_more_and_the_session_focuses_within_the_budget(bundle, encoder, tokenizer):
    ids, prompt = ids_of(20 * K + 3), tokenizer.encode(QUESTION)
    session = session_over(bundle, encoder, ids, budget=len(ids) + len(prompt) - 1)
    focus = session.focus(prompt)
    assert focus.steps and focus.context == focus.steps[-1].context
    assert session.read(focus.context, prompt).cost <= session.config.budget


@pytest.mark.parametrize("scorer", ["lensnet", "recency", "random", "bm25", "lensnet+bm25"])
def test_no_reading_costs_more_than_the_budget(bundle, encoder, planted, tokenizer, scorer):
    session = session_over(bundle, encoder, planted.ids, budget=100, scorer=scorer)
    for number, question in enumerate(planted.questions):
        prompt = tokenizer.encode(question.prompt)
        focus = session.focus(prompt, number=number)
        assert all(step.context.cost + len(prompt) <= 100 for step in focus.steps)
        assert session.read(focus.context, prompt).cost == focus.context.cost + len(prompt) <= 100


def test_a_reading_above_the_budget_is_refused(bundle, encoder):
    session = session_over(bundle, encoder, ids_of(200), budget=96)
    with pytest.raises(BudgetError, match="at most 96 positions, got 205"):
        session.read(WorkingContext.raw(200, K), ids_of(5))


@pytest.mark.parametrize("budget", [-1, 0, 1, K - 1])
def test_a_budget_below_one_block_is_refused(bundle, memory, budget):
    with pytest.raises(
        BudgetError, match=f"budget must hold one block of {K} tokens, got {budget}; raise focus.budget"
    ):
        Session(bundle, memory, FocusConfig(budget=budget))


def test_a_budget_too_small_for_prompt_and_cover_is_refused_with_the_one_that_would_do(bundle, encoder):
    session = session_over(bundle, encoder, ids_of(K**3 - 1), budget=40)
    cover = WorkingContext.cover(K**3 - 1, K)
    assert cover.cost == 3 * (K - 1)
    session.focus(ids_of(40 - cover.cost))
    with pytest.raises(
        BudgetError, match=r"prompt of 20 tokens .* 511 tokens, which takes 21 .*, got 40; .* to 41 at"
    ):
        session.focus(ids_of(20))
    with pytest.raises(BudgetError, match=r"raise focus.budget"):
        session.focus(ids_of(100))


@pytest.mark.parametrize("tokens", [0, 1, K - 1, K, K + 1, 31, 32, 33, 511, 512, 513])
@pytest.mark.parametrize("prompt", [0, 1, 13])
def test_a_focus_starts_from_all_tokens_if_they_fit_and_from_the_cover_if_not(tokens, prompt):
    budget = 45
    start = starting_context(tokens, K, budget, prompt)
    assert start.cost + prompt <= budget
    raw = WorkingContext.raw(tokens, K)
    assert (start == raw) if tokens + prompt <= budget else (start == WorkingContext.cover(tokens, K))


def test_what_was_observed_is_in_the_memory_as_text_or_as_ids(bundle, encoder, tokenizer):
    session = session_over(bundle, encoder, ids_of(0))
    session.observe("Sir Walter Elliot, ")
    session.observe("of Kellynch Hall, in Somersetshire, was a man.")
    session.observe(tokenizer.encode(" He came."))
    heard = tokenizer.decode(session.memory.tokens(0, session.memory.num_tokens))
    assert heard == "Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man. He came."


def test_an_answer_is_one_line_and_always_the_same(bundle, encoder, planted):
    session = session_over(bundle, encoder, planted.ids)
    answer = session.answer(QUESTION, max_tokens=5)
    assert isinstance(answer, str) and "\n" not in answer
    assert session_over(bundle, encoder, planted.ids).answer(QUESTION, max_tokens=5) == answer


def test_a_scorer_sees_what_was_observed_since_it_was_made(bundle, encoder, tokenizer, planted):
    session = session_over(bundle, encoder, planted.ids, scorer="recency")
    prompt = tokenizer.encode(QUESTION)
    for _ in range(3):
        context = session.focus(prompt).context
        blocks = session.memory.num_blocks
        assert context.num_tokens == session.memory.num_tokens
        assert context.is_raw(np.array([blocks - 1])).all()
        session.observe(ids_of(3 * K))


def test_what_was_observed_since_the_last_question_is_found(bundle, encoder, tokenizer, planted):
    session = session_over(bundle, encoder, planted.ids, scorer="bm25")
    prompt = tokenizer.encode("\nQuestion: Where is Zebulon?\nAnswer:")
    session.focus(prompt)
    at = session.memory.num_tokens // K
    session.observe(" Zebulon Zebulon Zebulon Zebulon.")
    session.observe(planted.ids[: 20 * K])
    assert session.focus(prompt).context.is_raw(np.array([at + 1])).all()


@pytest.mark.parametrize("strategy", ["greedy", "balanced", "stochastic", "exact"])
def test_every_strategy_focuses_within_the_budget(strategy, bundle, encoder, planted, tokenizer):
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(planted.ids)
    config = FocusConfig(budget=120, max_steps=64, allocator=AllocatorConfig(strategy=strategy))
    session = Session(bundle, memory, config, scorer="recency")
    prompt = tokenizer.encode(planted.questions[0].prompt)
    focus = session.focus(prompt)
    assert session.read(focus.context, prompt).cost <= 120 and (focus.context.lod == 0).sum() > 1
    if strategy == "exact":
        room = 120 - len(prompt)
        question = Question(number=0, ids=prompt)
        assert focus.context == session.goal(session.scorer(), question, room)


def test_the_exact_strategy_needs_a_number_for_every_block(bundle, encoder, planted, tokenizer):
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(planted.ids)
    config = FocusConfig(budget=120, allocator=AllocatorConfig(strategy="exact"))
    session = Session(bundle, memory, config, scorer="lensnet")
    with pytest.raises(ConfigError, match="'exact' needs a scorer that gives every block a number, got Lens"):
        session.focus(tokenizer.encode(planted.questions[0].prompt))


def test_an_unknown_scorer_is_answered_with_those_that_exist(bundle, memory):
    with pytest.raises(
        UnknownVariantError, match=r"unknown scorer 'lensnt'; did you mean 'lensnet'. known are recency"
    ):
        Session(bundle, memory, FocusConfig(budget=96), scorer="lensnt")


def test_an_empty_question_is_refused(bundle, encoder, planted):
    with pytest.raises(ShapeError, match="got"):
        session_over(bundle, encoder, planted.ids).answer("")
    with pytest.raises(ShapeError, match="at least one position"):
        session_over(bundle, encoder, ids_of(0)).answer("")


def test_steps_below_one_are_refused():
    with pytest.raises(ConfigError, match=r"focus.max_steps must be at least 1, got 0; raise it"):
        FocusConfig(max_steps=0)


# Decoding.


@pytest.fixture(scope="module")
def readings(bundle, encoder, planted, tokenizer):
    """Forty readings of many lengths: two batches."""
    session = session_over(bundle, encoder, planted.ids, budget=120)
    made = []
    for number in range(40):
        prompt = tokenizer.encode(planted.questions[number % 8].prompt)[number // 8 :]
        arm = ("recency", "bm25", "random")[number % 3]
        context = session.focus(prompt, scorer=arm, number=number).context if number % 5 else None
        made.append(session.read(context, prompt))
    assert len({reading.cost for reading in made}) > 10
    return made


def test_decoding_many_at_once_is_decoding_one_by_one(bundle, readings):
    stop = 10
    together = decode_greedily(bundle.base, readings, max_tokens=6, stop_tokens=[stop])
    alone = [decode_greedily(bundle.base, [one], max_tokens=6, stop_tokens=[stop])[0] for one in readings]
    assert together == alone
    assert any(together), "they do say something"


def test_several_sessions_on_one_model_are_decoded_together_as_each_alone(
    bundle, encoder, planted, tokenizer
):
    sessions = [session_over(bundle, encoder, planted.ids[: 300 + 97 * number]) for number in range(5)]
    prompt = tokenizer.encode(planted.questions[0].prompt)
    readings = [session.read(session.focus(prompt).context, prompt) for session in sessions]
    alone = [session.decode([reading])[0] for session, reading in zip(sessions, readings, strict=True)]
    assert sessions[0].decode(readings) == alone


def test_decoding_with_a_cache_is_reading_everything_again(bundle, readings):
    for reading in readings[:6]:
        (said,) = decode_greedily(bundle.base, [reading], max_tokens=6, stop_tokens=[-5])
        assert len(said) == 6
        batch, again = stack([reading], bundle.base), []
        with torch.inference_mode():
            embeddings, ids, positions = batch.embeddings, batch.ids, batch.positions
            for _ in range(6):
                hidden = bundle.base(embeddings, positions, ids=ids)
                token = bundle.base.unembed(hidden[:, -1:]).argmax(dim=-1)
                again.append(token.item())
                embeddings = torch.cat((embeddings, bundle.base.embed(token)), dim=1)
                ids, positions = (
                    torch.cat((ids, token), dim=1),
                    torch.cat((positions, positions[:, -1:] + 1), dim=1),
                )
        assert said == again


def test_decoding_ends_before_the_stop_token(bundle, readings):
    said = decode_greedily(bundle.base, readings, max_tokens=6, stop_tokens=[-5])
    stop = said[0][2]
    stopped = decode_greedily(bundle.base, readings, max_tokens=6, stop_tokens=[stop])
    for whole, cut in zip(said, stopped, strict=True):
        assert cut == (whole[: whole.index(stop)] if stop in whole else whole)


def test_no_readings_give_no_answers_and_no_tokens_none(bundle, readings):
    assert decode_greedily(bundle.base, [], max_tokens=6, stop_tokens=[0]) == []
    assert decode_greedily(bundle.base, readings[:2], max_tokens=1, stop_tokens=[-5]) == [
        row[:1] for row in decode_greedily(bundle.base, readings[:2], max_tokens=3, stop_tokens=[-5])
    ]


def test_heads_that_read_the_same_say_what_one_says(bundle, readings):
    doubled = [one for reading in readings for one in (reading, reading)]
    alone = decode_greedily(bundle.base, readings, max_tokens=6, stop_tokens=[-5])
    assert decode_greedily(bundle.base, doubled, max_tokens=6, stop_tokens=[-5], heads=2) == alone


def test_heads_that_differ_say_what_their_mean_says(bundle, readings):
    for pair in (readings[:2], readings[5:7], readings[20:22]):
        (said,) = decode_greedily(bundle.base, pair, max_tokens=1, stop_tokens=[-5], heads=2)
        hidden = []
        for reading in pair:
            batch = stack([reading], bundle.base)
            with torch.inference_mode():
                hidden.append(bundle.base(batch.embeddings, batch.positions, ids=batch.ids)[0, -1])
        with torch.inference_mode():
            logits = bundle.base.unembed((hidden[0] + hidden[1]) / 2)
        assert said == [int(logits.argmax())]


def test_readings_that_are_no_whole_readers_are_refused(bundle, readings):
    with pytest.raises(ShapeError, match="every reader has 2 readings, got 3 in all"):
        decode_greedily(bundle.base, readings[:3], max_tokens=1, stop_tokens=[-5], heads=2)


def test_the_heads_of_a_focus_share_its_budget(bundle, encoder, planted, tokenizer):
    session = session_over(bundle, encoder, planted.ids, budget=160)
    prompt = tokenizer.encode(planted.questions[0].prompt)
    costs = [
        session.read(session.focus(prompt, scorer=scorer, heads=2).context, prompt).cost
        for scorer in ("recency", "random")
    ]
    assert max(costs) <= 80 and sum(costs) > 80


def test_a_cache_takes_no_more_than_its_room(bundle):
    cache = KVCache.reserve(bundle.base.config, 2, 5, bundle.base.lm_head.weight)
    assert cache.has_room(2, 5) and not cache.has_room(2, 6) and not cache.has_room(1, 1)
