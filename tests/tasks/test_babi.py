"""The world's answers are those that a reader of the told sentences comes to by himself."""

import re

import numpy as np
import pytest

from megacontext.errors import ConfigError
from megacontext.tasks.asked import Background
from megacontext.tasks.babi import _TRAINING_ACTORS, ACTORS, ROOMS, THINGS, Babi, told_world
from megacontext.tasks.facts import is_held_out

NOTHING = Background(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64))
SEEDS = range(20)


def follow(sentences):
    """A reader of his own: rooms of actors, and of things the rooms in which they were, in order."""
    actors, carriers, things = {}, {}, {thing: [] for thing in THINGS}

    def note(thing, room):
        if things[thing][-1:] != [room]:
            things[thing].append(room)

    for sentence in sentences:
        actor, *rest = re.findall(r"\w+", sentence)
        if rest[-1] in ROOMS:
            actors[actor] = rest[-1]
            for thing, who in carriers.items():
                if who == actor:
                    note(thing, rest[-1])
        else:
            (thing,) = set(rest) & set(THINGS)
            if rest[0] in ("took", "picked"):
                assert thing not in carriers, "nobody takes what another carries"
                assert things[thing][-1:] in ([], [actors[actor]]), "things are taken where they are"
                carriers[thing] = actor
            else:
                assert carriers.pop(thing) == actor, "only a carrier leaves a thing"
            note(thing, actors[actor])
    return actors, things


def answers(sentences, kind):
    """Every question of a kind that a reader of these sentences could answer, and its answer."""
    actors, things = follow(sentences)
    if kind == 1:
        return {f"Where is {actor}?": room for actor, room in actors.items()}
    if kind == 2:
        return {f"Where is the {thing}?": rooms[-1] for thing, rooms in things.items() if rooms}
    return {
        f"Where was the {thing} before it was in the {rooms[-1]}?": rooms[-2]
        for thing, rooms in things.items()
        if len(rooms) > 1
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_reader_of_the_history_gives_the_same_answers(tokenizer, kind, seed):
    history = Babi(kind=kind).plant(NOTHING, tokenizer, np.random.default_rng(seed))
    told = re.findall(r"[^.]+\.", tokenizer.decode(history.ids))
    known = answers(told, kind)
    for question in history.questions:
        asked = re.search(r"Question: (.*)\n", question.prompt)[1]
        assert known[asked] == question.answer.strip()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_the_supporting_sentences_name_the_subject_and_the_room(kind, seed):
    world = told_world(np.random.default_rng(seed), 40)
    for name in ACTORS if kind == 1 else THINGS:
        found = world.answer(kind, name)
        if found is None:
            continue
        assert list(found.supports) == sorted(set(found.supports))
        told = [world.told[at] for at in found.supports]
        assert any(name in sentence for sentence in told)
        assert any(found.room in sentence for sentence in told)


def test_without_its_supporting_sentence_an_actor_is_elsewhere():
    world = told_world(np.random.default_rng(0), 40)
    for actor in ACTORS:
        found = world.answer(1, actor)
        rest = [sentence for at, sentence in enumerate(world.told) if at not in found.supports]
        walks = [
            sentence
            for sentence in rest
            if sentence.startswith(f" {actor} ") and sentence[:-1].endswith(ROOMS)
        ]
        assert not walks or not walks[-1].endswith(f" {found.room}.")


def test_kinds_need_one_two_and_up_to_four_sentences():
    for kind, counts in ((1, {1}), (2, {2}), (3, {3, 4})):
        world = [told_world(np.random.default_rng(seed), 60) for seed in SEEDS]
        found = [one.answer(kind, name) for one in world for name in (ACTORS if kind == 1 else THINGS)]
        assert {len(one.supports) for one in found if one} <= counts


@pytest.mark.parametrize("many_things", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_training_shares_neither_people_nor_things_with_evaluation(tokenizer, seed, many_things):
    task = Babi(kind=2, events=40, asks=6, many_things=many_things)
    history = task.plant(NOTHING, tokenizer, np.random.default_rng(seed), held_out=False)
    told = set(re.findall(r"\w+", tokenizer.decode(history.ids)))
    assert not told & {*ACTORS, *THINGS} and told & set(ROOMS)
    actors = {re.match(r" (\w+)", sentence)[1] for sentence in tokenizer.decode(history.ids).split(".")[:-1]}
    assert len(actors) == 6
    invented = actors - set(_TRAINING_ACTORS)
    assert len(invented) >= 3 and not any(map(is_held_out, invented))


def test_a_smaller_world_has_fewer_people_and_things(tokenizer):
    history = Babi(kind=1, events=14, asks=2, people=2).plant(NOTHING, tokenizer, np.random.default_rng(0))
    told = set(re.findall(r"\w+", tokenizer.decode(history.ids)))
    assert told & set(ACTORS) == set(ACTORS[:2]) and told & set(THINGS) <= set(THINGS[:2])


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_alike_speaks_of_the_same_and_is_all_that_does(seed):
    """From a thing to where it changed hands, from there to its carrier's walks; the rest of both kinds is alike."""
    world = told_world(np.random.default_rng(seed), 40)
    for thing in THINGS:
        found = world.answer(2, thing)
        if found is None:
            continue
        hands, walks = found.path
        naming = {at for at, sentence in enumerate(world.told) if f" {thing}" in sentence}
        assert {*hands.found, *hands.alike} == naming and max(naming) == hands.found[0] == walks.read
        actor = world.told[walks.read].split()[0]
        walked = {
            at
            for at, said in enumerate(world.told)
            if said.startswith(f" {actor} ") and said[:-1].endswith(ROOMS)
        }
        assert {*walks.found, *walks.alike} == walked and found.room in world.told[walks.found[0]]


def test_a_world_in_which_too_little_happens_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr("megacontext.tasks.babi._TRIES", 1)
    with pytest.raises(
        ConfigError, match="no world of 30 events with 6 questions of kind 3; let more happen"
    ):
        Babi(kind=3, events=30, asks=6).plant(NOTHING, tokenizer, np.random.default_rng(0))
