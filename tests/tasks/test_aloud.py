"""Steps that are said are the history's own sentences, in an order in which each leads to the next."""

import re

import numpy as np
import pytest
from toys import prose

from megacontext.config import from_mapping
from megacontext.errors import ConfigError
from megacontext.tasks.aloud import Aloud, steps_of
from megacontext.tasks.asked import Background
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.babi import THINGS, Babi
from megacontext.tasks.mixture import TaskShare
from megacontext.tasks.mqar import Mqar
from megacontext.tasks.variables import Variables

SEEDS = range(6)
STEPPED = {
    "chains": Variables(hops=3),
    "every link": Variables(hops=2, chains=3, every_link=True),
    "babi 2": Babi(kind=2),
    "babi 3": Babi(kind=3),
}
AT_ONCE = {"facts": Facts(), "pairs": Mqar(pairs=5), "babi 1": Babi(kind=1)}


@pytest.fixture(scope="module")
def text(tokenizer):
    return Background.of(tokenizer.encode(prose(6000)), tokenizer)


def said(history, look, tokenizer):
    (span,) = look.found
    return tokenizer.decode(history.ids[span.start : span.stop])


def planted(task, text, tokenizer, seed):
    return task.plant(text, tokenizer, np.random.default_rng(seed))


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_turns_of_a_question_are_its_whole_answer_piece_by_piece(name, seed, text, tokenizer):
    task = STEPPED[name]
    plain = planted(task, text, tokenizer, seed)
    whole = planted(Aloud(task=task), text, tokenizer, seed)
    turns = iter(planted(Aloud(task=task, turns=True), text, tokenizer, seed).questions)
    assert np.array_equal(plain.ids, whole.ids)
    for asked, spoken in zip(plain.questions, whole.questions, strict=True):
        assert spoken.prompt == asked.prompt and spoken.answer.endswith(asked.answer)
        assert spoken.answer == "".join(steps_of(plain, asked, tokenizer)) + asked.answer
        prompt = asked.prompt
        for look in asked.aloud or (None,):
            turn = next(turns)
            assert turn.prompt == prompt
            assert turn.needed == (asked.needed if look is None else look.found)
            prompt += turn.answer
        assert prompt == spoken.prompt + spoken.answer
    assert next(turns, None) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_each_link_of_a_chain_names_whom_the_next_sentence_is_about(seed, text, tokenizer):
    history = planted(STEPPED["chains"], text, tokenizer, seed)
    for question in history.questions:
        *steps, last = (
            tokenizer.decode(history.ids[look.found[0].start : look.found[0].stop]) for look in question.aloud
        )
        assert (
            len(steps) == 3 and question.answer in last and not any(question.answer in step for step in steps)
        )
        for step, following in zip(steps, [*steps[1:], last], strict=True):
            (named,) = re.findall(r"is that of (.+)\.$", step)
            assert named in following


@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_thing_s_steps_begin_with_who_had_it_last_and_end_in_its_room(kind, seed, text, tokenizer):
    history = planted(STEPPED[f"babi {kind}"], text, tokenizer, seed)
    for question in history.questions:
        says = [said(history, look, tokenizer) for look in question.aloud]
        (thing,) = [thing for thing in THINGS if thing in question.prompt]
        assert thing in says[0] and question.answer in says[-1] and thing not in says[-1]
        assert {look.found[0] for look in question.aloud} == set(question.needed)
        about_it = [span for look in question.path[:1] for span in (*look.found, *look.alike)]
        assert question.aloud[0].found[0] == max(about_it, key=lambda span: span.start) or kind == 3
        # The answer stands in no step that is said before it, so it cannot be copied from there.
        if kind == 2:
            assert not any(question.answer in step for step in says[:-1])


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_one_look_finds_is_answered_at_once(name, text, tokenizer):
    task = AT_ONCE[name]
    plain = planted(task, text, tokenizer, 1).questions
    for turns in (False, True):
        assert planted(Aloud(task=task, turns=turns), text, tokenizer, 1).questions == plain


@pytest.mark.parametrize("name", STEPPED)
def test_a_step_has_the_same_tokens_said_after_a_prompt_as_in_training(name, text, tokenizer):
    history = planted(STEPPED[name], text, tokenizer, 0)
    for question in history.questions:
        steps = steps_of(history, question, tokenizer)
        apart = [tokenizer.encode(part) for part in (question.prompt, *steps)]
        assert np.array_equal(np.concatenate(apart), tokenizer.encode(question.prompt + "".join(steps)))


def test_a_recipe_says_how_steps_are_met():
    def share(**how):
        return from_mapping(TaskShare, {"variables": {"hops": 2}} | how, where="recipe").task

    assert share() == Variables(hops=2)
    assert share(aloud="answers") == Aloud(task=Variables(hops=2))
    assert share(aloud="turns") == Aloud(task=Variables(hops=2), turns=True)
    with pytest.raises(ConfigError, match="aloud"):
        share(aloud="loudly")
