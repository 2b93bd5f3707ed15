"""Every task is the same for the same seed, and the answer stands in the spans that are needed and nowhere else."""

import re

import numpy as np
import pytest
from toys import prose

from megacontext.errors import ConfigError
from megacontext.tasks.asked import Background
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.babi import Babi
from megacontext.tasks.counting import NUMBERS, Counting
from megacontext.tasks.facts import FactsConfig, is_held_out
from megacontext.tasks.mixture import TaskShare, draw_task
from megacontext.tasks.mqar import Mqar
from megacontext.tasks.needles import Needles
from megacontext.tasks.variables import Variables

SEEDS = range(5)
FIRST_LIGHT = Facts(facts=FactsConfig(keys=6))
TASKS = {
    "needles": Needles(),
    "dense needles": Needles(per_thousand=30.0),
    "facts": FIRST_LIGHT,
    "mqar": Mqar(pairs=9, queries=4),
    "mqar asked whole": Mqar(pairs=3),
    "variables": Variables(hops=3),
    "variables asked link by link": Variables(hops=2, chains=3, every_link=True),
    "babi 1": Babi(kind=1),
    "babi 2": Babi(kind=2),
    "babi 3": Babi(kind=3),
    "counting": Counting(),
}
VALUED = (
    "needles",
    "dense needles",
    "facts",
    "mqar",
    "mqar asked whole",
    "variables",
    "variables asked link by link",
)


@pytest.fixture(scope="module")
def text(tokenizer):
    return Background.of(tokenizer.encode(prose(6000)), tokenizer)


@pytest.fixture(scope="module")
def plant(text, tokenizer):
    return lambda task, seed=0: task.plant(text, tokenizer, np.random.default_rng(seed))


def said_in(history, question, tokenizer):
    return [tokenizer.decode(history.ids[span.start : span.stop]) for span in question.needed]


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_history_and_another_another(plant, name):
    one, same, other = (plant(TASKS[name], seed) for seed in (1, 1, 2))
    assert np.array_equal(one.ids, same.ids) and one.questions == same.questions
    assert one.questions != other.questions
    assert len(one.questions) == TASKS[name].asks


@pytest.mark.parametrize("name", TASKS)
def test_needed_spans_are_whole_sentences_in_time_order(plant, tokenizer, name):
    history = plant(TASKS[name])
    for question in history.questions:
        assert question.needed and list(question.needed) == sorted(question.needed)
        for sentence in said_in(history, question, tokenizer):
            assert re.fullmatch(r" [A-Z][^.]+\.", sentence), sentence


@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_ends_where_the_answer_begins_and_does_not_hold_it(plant, tokenizer, name):
    for question in plant(TASKS[name]).questions:
        assert question.prompt.startswith("\nQuestion:") and question.prompt.endswith("\nAnswer:")
        assert question.answer.strip() not in question.prompt
        apart = [*tokenizer.encode(question.prompt), *tokenizer.encode(question.answer)]
        assert apart == tokenizer.encode(question.prompt + question.answer).tolist()
        assert question.is_right(question.answer.strip())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", VALUED)
def test_a_value_stands_in_the_needed_spans_and_nowhere_else(plant, tokenizer, name, seed):
    history = plant(TASKS[name], seed)
    whole = tokenizer.decode(history.ids)
    for question in history.questions:
        value = question.answer.strip()
        assert sum(sentence.count(value) for sentence in said_in(history, question, tokenizer)) == 1
        assert whole.count(value) == 1


@pytest.mark.parametrize("name", TASKS)
def test_looks_come_to_all_that_is_needed_each_from_what_was_found_before(plant, name):
    history = plant(TASKS[name])
    for question in history.questions:
        found = []
        for look in question.looks:
            assert look.read is None or look.read in found, "a look starts from what an earlier one came to"
            assert set(look.found) <= set(question.needed) and not set(look.alike) & set(look.found)
            found += look.found
        assert question.looks[0].read is None and sorted(set(found)) == list(question.needed)
        assert {look.read for look in question.looks} == {None, *question.needed}, "each says where it leads"


@pytest.mark.parametrize("name", TASKS)
def test_what_leads_on_names_what_it_leads_to(plant, tokenizer, name):
    """The text of a look shares a name with what it finds that no unrelated sentence would have to share."""
    history, names = plant(TASKS[name]), re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+|[A-Z][a-z]+")
    say = lambda span: tokenizer.decode(history.ids[span.start : span.stop])  # noqa: E731
    for look in (look for question in history.questions for look in question.looks if look.read is not None):
        read = set(names.findall(say(look.read)))
        assert all(read & set(names.findall(say(span))) for span in (*look.found, *look.alike))


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith("babi")])
def test_training_has_names_that_evaluation_has_not(plant, text, tokenizer, name):
    surname = re.compile(r"(?:Mr|Mrs|Miss|Captain|Doctor|Lady) (\w+)")
    training = TASKS[name].plant(text, tokenizer, np.random.default_rng(0), held_out=False)
    for history, held_out in ((plant(TASKS[name]), True), (training, False)):
        asked = [surname.search(question.prompt)[1] for question in history.questions]
        assert {is_held_out(one) for one in asked} == {held_out}


def test_needles_stand_at_even_depths_and_share_no_person(plant):
    history = plant(Needles(depths=4, each=3))
    # Needles before it move a needle a little; they are planted by the depth in the text.
    depths = [history.depth(question) for question in history.questions]
    assert depths == sorted(depths)
    assert np.histogram(depths, bins=4, range=(0, 1))[0].tolist() == [3, 3, 3, 3]
    names = [re.search(r"(?:Mr|Mrs|Miss|Captain|Doctor|Lady) (\w+)", q.prompt)[1] for q in history.questions]
    assert len(set(names)) == 12 and all(map(is_held_out, names))


def test_needles_of_a_density_are_as_many_in_a_thousand_tokens_at_any_length(text, tokenizer):
    task = Needles(depths=2, each=2, per_thousand=20.0)
    for tokens in (300, 700, 1600):
        stretch = text.stretch(0, tokens)
        history = task.plant(stretch, tokenizer, np.random.default_rng(0))
        planted = tokenizer.decode(history.ids)
        told = len(re.findall(r"(?:Mr|Mrs|Miss|Captain|Doctor|Lady) \w+", planted))
        before = len(re.findall(r"(?:Mr|Mrs|Miss|Captain|Doctor|Lady) \w+", tokenizer.decode(stretch.ids)))
        assert told - before == max(4, round(0.02 * len(stretch.ids))) and len(history.questions) == 4
        depths = [history.depth(question) for question in history.questions]
        assert depths == sorted(depths) and depths[1] < 0.6 and depths[2] > 0.4


def test_the_history_of_mqar_is_its_pairs_alone(plant, tokenizer):
    history = plant(Mqar(pairs=7, queries=7))
    ends = [0, *(question.needed[0].stop for question in history.questions)]
    assert ends[:-1] == [question.needed[0].start for question in history.questions]
    assert ends[-1] == len(history.ids)


@pytest.mark.parametrize("hops", [1, 2, 6])
def test_a_chain_leads_from_the_name_that_is_asked_for_to_the_value(plant, tokenizer, hops):
    history = plant(Variables(hops=hops, chains=3))
    person = r"(?:Mr|Mrs|Miss|Captain|Doctor|Lady) \w+"
    for question in history.questions:
        first, *links = said_in(history, question, tokenizer)
        assert len(links) == hops
        at = re.search(person, question.prompt)[0]
        for link in reversed(links):
            one, other = re.findall(person, link)
            assert one == at
            at = other
        assert at in first and question.answer.strip() in first
    assert len({re.search(r"the (\w+) of|'s (\w+)\?", q.prompt)[0] for q in history.questions}) <= 2


def test_counting_counts_what_was_said_and_every_count_is_asked_for(plant, tokenizer):
    history = plant(Counting(most=6))
    whole = tokenizer.decode(history.ids)
    for number, question in enumerate(history.questions, start=1):
        person = re.search(r"did (\w+ \w+) ring", question.prompt)[1]
        assert len(re.findall(rf"{person} rang the bell|rung by {person}\.", whole)) == number
        assert len(question.needed) == number and question.answer.strip() == NUMBERS[number - 1]
        assert all(person in sentence for sentence in said_in(history, question, tokenizer))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Needles(each=0), "at least 1 depth and 1 needle each, got 5 and 0"),
        (lambda: Needles(per_thousand=-1), "must not be negative, got -1"),
        (lambda: Mqar(pairs=0), "at least 1 pair and 1 query, got 0 and 32"),
        (lambda: Variables(hops=0), "at least 1 hop and 1 chain, got 0 and 4"),
        (lambda: Counting(most=11), "must go up to 1 .. 10, got 11"),
        (lambda: Babi(kind=4), "the kinds 1, 2 and 3, got 4"),
        (lambda: Babi(people=7), "1 .. 6 people, got 7"),
        (lambda: Babi(people=2, asks=3), "1 .. 2 questions and at least 2 events"),
        (lambda: TaskShare(share=1), r"names one task and is positive, got none and 1; name one of facts, "),
        (lambda: TaskShare(babi=Babi(), mqar=Mqar()), r"got \['mqar', 'babi'\]"),
        (lambda: TaskShare(share=0, mqar=Mqar()), r"is positive, got \['mqar'\] and 0"),
        (lambda: Babi(asks=7), "1 .. 6 questions and at least 6 events and 4 more a question, got 7 and 40"),
        (lambda: Babi(events=8), "got 4 and 8; ask less or let more happen"),
    ],
)
def test_a_task_that_cannot_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_text_without_sentences_is_refused_by_every_task_that_needs_one(tokenizer):
    text = Background.of(tokenizer.encode("word " * 80), tokenizer)
    for name, task in TASKS.items():
        if not name.startswith("mqar"):
            with pytest.raises(ConfigError, match="must have a sentence end"):
                task.plant(text, tokenizer, np.random.default_rng(0))


def test_a_mixture_gives_each_task_its_share():
    shares = (TaskShare(share=3, mqar=Mqar(pairs=2)), TaskShare(share=1, counting=Counting(most=2)))
    rng = np.random.default_rng(0)
    drawn = [draw_task(shares, rng) for _ in range(2000)]
    assert set(drawn) == {Mqar(pairs=2), Counting(most=2)}
    assert abs(np.mean([one == Mqar(pairs=2) for one in drawn]) - 0.75) < 5 * (0.75 * 0.25 / 2000) ** 0.5
