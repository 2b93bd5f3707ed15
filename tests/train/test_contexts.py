"""Training examples, rebuilt from the histories that they were cut from: every span, every target, every need."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest
from toys import K, prose
from training_toys import MIXED, RAW, TASKED, RecordingSampler, books, sampler_of

from megacontext.config import data_root, load_recipe
from megacontext.errors import ConfigError
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.facts import FactsConfig, is_held_out
from megacontext.tokenizer import Tokenizer
from megacontext.train.contexts import IGNORED, ContextSampler, ContextSpec, vocabulary_texts
from megacontext.train.tiny import TinyTrainConfig

PERSON = r"(?:Mr|Mrs|Miss|Captain|Doctor|Lady) (\w+)"
SPECS = {
    "mixed": MIXED,
    "raw": RAW,
    "gists only": dataclasses.replace(MIXED, max_raw=0, coarse=0),
    "short": ContextSpec(min_blocks=1, max_blocks=1, max_raw=99, keys=2, questions=2),
    "fronts": dataclasses.replace(MIXED, coarse=4, keys=8),
    "tasks": TASKED,
    "tasks raw": dataclasses.replace(TASKED, max_raw=99, coarse=0),
}


def drawn(tokenizer, name, seed, size=4, positions="context"):
    """A batch, and of each of its examples the whole history: what was before, planted facts included."""
    sampler = sampler_of(tokenizer, RecordingSampler, positions)
    batch = sampler.batch(np.random.default_rng(seed), size, SPECS[name])
    return batch, sampler.drawn


def spans_at(row, slots, tokens):
    """Column of each gist of one row, with the tokens that it stands for."""
    return {int(slots[at, 1]): tokens[at].reshape(-1) for at in np.flatnonzero(slots[:, 0] == row)}


def entries_of(batch, row, history_length, prompt):
    """Entries of one row as (column, start, stop, tokens) on the timeline, found from the batch alone.

    Walks backwards, because a row ends where its history and prompt end. Also gives the gists by column, the LOD2
    gists by column, and the width.
    """
    gists = spans_at(row, batch.gist_slots, batch.gist_tokens)
    coarse = spans_at(row, batch.coarse_slots, batch.coarse_tokens)
    width = max(np.flatnonzero(batch.ids[row] >= 0)) + 1
    stop, entries = history_length + prompt, []
    for column in reversed(range(width)):
        assert not (column in gists and column in coarse)
        tokens = (gists | coarse).get(column, batch.ids[row, column : column + 1])
        assert (batch.ids[row, column] >= 0) == (len(tokens) == 1), "gists have no id"
        entries.append((column, stop - len(tokens), stop, tokens))
        stop -= len(tokens)
    return entries[::-1], gists, coarse, width


def prompt_of(sampler_tokenizer, batch, row):
    """Ids of the dialogue at the end of a row."""
    ids = batch.ids[row][: max(np.flatnonzero(batch.ids[row] >= 0)) + 1]
    newline = int(sampler_tokenizer.encode("\n")[0])
    asked = sampler_tokenizer.encode("\nQuestion:")
    for at in range(len(ids) - len(asked)):
        if np.array_equal(ids[at : at + len(asked)], asked):
            return ids[at:]
    assert ids[-1] == newline
    return ids[-1:]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(6))
def test_every_entry_is_a_span_of_the_history_and_its_target_the_token_after_it(tokenizer, name, seed):
    batch, histories = drawn(tokenizer, name, seed)
    for row, (planted, before) in enumerate(histories):
        prompt = prompt_of(tokenizer, batch, row)
        whole = np.concatenate((before, planted.ids, prompt))
        history = len(whole) - len(prompt)
        entries, gists, coarse, width = entries_of(batch, row, history, len(prompt))
        for column, start, stop, tokens in entries:
            assert np.array_equal(whole[start:stop], tokens), "the entries tile the end of the history"
            target = batch.targets[row, column]
            # The followers of all LOD2 gists but the last are not shown as tokens; they may go without a target.
            if column in coarse and column + 1 in coarse:
                assert target == IGNORED
            else:
                assert target == (whole[stop] if stop < len(whole) else IGNORED)
        assert (batch.ids[row, width:] == -1).all() and (batch.targets[row, width:] == IGNORED).all()
        assert not batch.is_answer[row, width:].any()
        first = entries[len(coarse)][1]
        for column in gists:
            assert (entries[column][1] - first) % K == 0, "blocks are cut from where the stretch begins"
        assert sorted(coarse) == list(range(len(coarse))), "LOD2 gists stand in front"


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(6))
def test_what_a_question_needs_is_raw_and_what_it_expects_is_marked(tokenizer, name, seed):
    batch, histories = drawn(tokenizer, name, seed)
    for row, (planted, before) in enumerate(histories):
        prompt = prompt_of(tokenizer, batch, row)
        history = len(before) + len(planted.ids)
        entries, _, _, _ = entries_of(batch, row, history, len(prompt))
        raw = {start - len(before) for _, start, stop, _ in entries if stop - start == 1}
        text = tokenizer.decode(prompt)
        asked = [question for question in planted.questions if question.prompt in text]
        assert len(asked) == text.count("Question:") <= SPECS[name].questions
        answers = ""
        for question in sorted(asked, key=lambda question: text.index(question.prompt)):
            assert {place for span in question.needed for place in range(span.start, span.stop)} <= raw
            assert question.prompt + question.answer + "\n" in text
            answers += question.answer
        marked = batch.targets[row][batch.is_answer[row]]
        assert tokenizer.decode(marked) == answers + "\n"


@pytest.mark.parametrize("seed", range(4))
def test_positions_are_places_or_centres_of_spans(tokenizer, seed):
    for policy in ("context", "global"):
        batch, histories = drawn(tokenizer, "fronts", seed, positions=policy)
        for row, (planted, before) in enumerate(histories):
            prompt = prompt_of(tokenizer, batch, row)
            history = len(before) + len(planted.ids)
            entries, _, coarse, _ = entries_of(batch, row, history, len(prompt))
            origin = entries[len(coarse)][1]
            for column, start, stop, _ in entries:
                expected = column if policy == "context" else (start + stop - 1) / 2 - origin
                assert batch.positions[row, column] == expected


def test_no_more_blocks_are_raw_than_asked_for_unless_questions_need_them(tokenizer):
    for seed in range(10):
        batch, histories = drawn(tokenizer, "gists only", seed)
        for row, (planted, _) in enumerate(histories):
            prompt = prompt_of(tokenizer, batch, row)
            raw = int((batch.ids[row] >= 0).sum()) - len(prompt)
            asked = [q for q in planted.questions if q.prompt in tokenizer.decode(prompt)]
            needed = [span for question in asked for span in question.needed]
            assert raw <= sum((need.stop - 1) // K - need.start // K + 2 for need in needed) * K + K - 1


def test_the_same_seed_gives_the_same_batch_and_another_another(tokenizer):
    one, same, other = (drawn(tokenizer, "mixed", seed)[0] for seed in (1, 1, 2))
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(same, field.name))
    assert one.ids.shape != other.ids.shape or not np.array_equal(one.ids, other.ids)


def test_facts_alone_are_drawn_as_when_the_shipped_model_was_trained():
    """Its recipe must go on giving its weights: batches of its stages hash to what they were."""
    tokenizer = Tokenizer.load(data_root() / "tiny" / "tokenizer.json")
    sampler = ContextSampler([tokenizer.encode(prose(60_000))], tokenizer, 32)
    rng, digest = np.random.default_rng(0), hashlib.blake2b(digest_size=8)
    for stage in load_recipe(TinyTrainConfig, "tiny").base.stages:
        batch = sampler.batch(rng, 4, stage.contexts)
        for field in dataclasses.fields(batch):
            digest.update(np.ascontiguousarray(getattr(batch, field.name)).tobytes())
    assert digest.hexdigest() == "4b7ab3dc48943bb4"


def test_tasks_are_planted_whole_and_facts_are_cut_to_the_length_that_was_asked_for(tokenizer):
    for name, spec in SPECS.items():
        batch, histories = drawn(tokenizer, name, 3)
        for row, (planted, before) in enumerate(histories):
            front = int((batch.coarse_slots[:, 0] == row).sum())
            assert len(before) == front * K * K
            gists = int((batch.gist_slots[:, 0] == row).sum())
            raw = int((batch.ids[row] >= 0).sum()) - len(prompt_of(tokenizer, batch, row))
            if spec.tasks:
                assert raw + gists * K == len(planted.ids)
                assert planted.questions and all(one.needed[0].start >= 0 for one in planted.questions)
            else:
                assert raw + gists * K < len(planted.ids)


def test_facts_are_planted_the_same_by_their_own_name_and_as_a_task(tokenizer):
    facts, sampler = FactsConfig(keys=6), sampler_of(tokenizer)
    one, front = sampler.history(np.random.default_rng(4), 300, facts, before=40)
    other, same = sampler.asked(np.random.default_rng(4), 300, Facts(facts=facts), before=40)
    assert np.array_equal(one.ids, other.ids) and np.array_equal(front, same) and len(front) == 40
    assert [q.needed.start for q in one.questions] == [q.needed[0].start for q in other.questions]


def test_training_draws_no_name_that_evaluation_asks_for(tokenizer):
    for seed in range(5):
        for planted, _ in drawn(tokenizer, "mixed", seed)[1]:
            names = [re.search(PERSON, question.prompt)[1] for question in planted.questions]
            assert names and not any(map(is_held_out, names))


def test_long_books_are_drawn_more_often(tokenizer):
    sampler = sampler_of(tokenizer)
    rng = np.random.default_rng(0)
    share = np.mean([sampler._draw_book(rng) == 0 for _ in range(2000)])
    sizes = [len(book) for book in books(tokenizer)]
    assert abs(share - sizes[0] / sum(sizes)) < 0.05


def test_books_without_sentences_or_too_short_are_refused_and_not_searched_forever(tokenizer):
    rng = np.random.default_rng(0)
    for text in ("no end in sight " * 50, "Too short. It is."):
        sampler = ContextSampler([tokenizer.encode(text)], tokenizer, K)
        with pytest.raises(
            ConfigError, match=r"sentences to put facts between, 100 stretches .*; give longer books"
        ):
            sampler.batch(rng, 2, dataclasses.replace(MIXED, min_blocks=24, coarse=9, keys=1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_blocks": 0}, "1 <= min_blocks <= max_blocks, got 0 and 24"),
        ({"min_blocks": 25}, "1 <= min_blocks <= max_blocks, got 25 and 24"),
        ({"keys": 0}, "need keys of at least 1 or tasks, and not both, got keys 0 and 0 tasks"),
        ({"tasks": TASKED.tasks}, "need keys of at least 1 or tasks, and not both, got keys 5 and 3 tasks"),
        ({"questions": 0}, "at least 1"),
        ({"max_raw": -1}, "at least 0"),
        ({"coarse": -1}, "at least 0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MIXED, **wrong)


def test_the_vocabulary_is_learnt_from_books_and_from_facts_with_training_names():
    *given, facts = vocabulary_texts(["one", "two"], np.random.default_rng(0), sentences=30)
    assert given == ["one", "two"]
    assert facts.count("Question:") == facts.count("Answer:") == 30
    assert vocabulary_texts([prose(10)], np.random.default_rng(0), 5) == vocabulary_texts(
        [prose(10)], np.random.default_rng(0), 5
    )
