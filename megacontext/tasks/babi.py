"""A small world told between the sentences of a book: who is where, where a thing is, and where it was before.

After the first three kinds of bAbI (Weston et al. 2015), hidden in a text as BABILong does it (Kuratov et al. 2024).
Actors walk between rooms, take things and leave them; what they do is told in order, a sentence an event. Asked for is

1. where an actor is: one supporting sentence, the actor's last walk;
2. where a thing is: two, the last time that it was taken or left and the last walk of who carried it then;
3. where a thing was before it came to the room where it is: the sentences that place it in both rooms.

The world, its people and its sentences are ours. An answer is a room; it is scored by label sets (`tasks.asked`), so
guessing scores one in six. Training shares rooms and wordings with evaluation, but neither people nor things. The model
`tiny` knows the form of the questions alone and was never trained on an answer of one word; the recipe `tiny-tasks`
trains on such answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from megacontext.errors import ConfigError
from megacontext.spans import Span
from megacontext.tasks.asked import Asked, AskedHistory, Background, Look
from megacontext.tasks.facts import as_prompt, invent_surname
from megacontext.tokenizer import Tokenizer

KINDS = (1, 2, 3)
ACTORS = ("Tobias", "Harriet", "Rupert", "Cecily", "Barnaby", "Matilda")
ROOMS = ("library", "kitchen", "garden", "cellar", "attic", "stable")
THINGS = ("lantern", "teapot", "fiddle", "basket", "mirror", "saddle")
_TRAINING_ACTORS = (
    "Alfred", "Beatrice", "Conrad", "Dorothea", "Edgar", "Felicity", "Gilbert", "Hester", "Isaac", "Josephine",
    "Lionel", "Marian", "Nathaniel", "Olive", "Percival", "Rosalind", "Silas", "Theodora", "Victor", "Winifred",
)  # fmt: skip
_TRAINING_THINGS = (
    "hammer", "candle", "kettle", "ladder", "needle", "trumpet", "feather", "crown", "apple", "letter", "bottle", "cup",
    "book", "coat", "knife", "purse", "ring", "spoon", "rope", "lamp", "broom", "bucket", "pillow", "violin",
)  # fmt: skip
_WALKS = (" {actor} went to the {room}.", " {actor} walked into the {room}.", " {actor} came to the {room}.")
_TAKES = (" {actor} took the {thing}.", " {actor} picked up the {thing}.")
_LEAVES = (" {actor} left the {thing} there.", " {actor} put down the {thing}.")
_WORD = re.compile(r"(?<![\w'])[a-z]{4,9}(?![\w'])")
"""In lower case, as things are written."""
_WALK_SHARE, _TAKE_SHARE = 0.6, 0.25
_TRIES = 1000
"""Worlds looked at for one in which enough can be asked: of the default size every one will do for kinds 1 and 2."""


@dataclass(frozen=True, kw_only=True)
class Babi:
    """Which of the three kinds, and how much happens."""

    kind: int = 1
    events: int = 40
    """Sentences that tell what happens."""
    asks: int = 4
    """Questions put to one history."""
    people: int = len(ACTORS)
    """Actors in the world, and things."""
    many_things: bool = False
    """Whether training draws things and names from the text around too, so that none is learnt by heart."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"babi has the kinds 1, 2 and 3, got {self.kind}; choose one of them")
        if not 1 <= self.people <= len(ACTORS):
            raise ConfigError(
                f"babi has 1 .. {len(ACTORS)} people, got {self.people}; there are names for so many"
            )
        if not 1 <= self.asks <= self.people or self.events < self.people + 4 * self.asks:
            raise ConfigError(
                f"babi needs 1 .. {self.people} questions and at least {self.people} events and 4 more a question, got "
                f"{self.asks} and {self.events}; ask less or let more happen"
            )

    def plant(
        self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> AskedHistory:
        cast = (
            Cast().first(self.people)
            if held_out
            else _training_cast(rng, self.people, _words(text, tokenizer) if self.many_things else ())
        )
        for _ in range(_TRIES):
            world = told_world(rng, self.events, cast)
            known = [found for name in cast.asked(self.kind) if (found := world.answer(self.kind, name))]
            if len(known) >= self.asks:
                break
        else:
            raise ConfigError(
                f"babi found no world of {self.events} events with {self.asks} questions of kind {self.kind}; let "
                "more happen or ask less"
            )
        ids, spans = text.with_sentences(text.draw(rng, self.events), world.told, tokenizer)
        chosen = [known[which] for which in np.sort(rng.choice(len(known), size=self.asks, replace=False))]
        questions = tuple(
            Asked(
                prompt=as_prompt(found.question),
                answer=" " + found.room,
                needed=tuple(spans[at] for at in found.supports),
                kind=f"kind {self.kind}",
                labels=ROOMS,
                path=tuple(step.look(spans) for step in found.path),
                aloud=tuple(step.look(spans) for step in found.aloud),
            )
            for found in chosen
        )
        return AskedHistory(ids, questions)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who and what a world is about: by default those of evaluation."""

    actors: tuple[str, ...] = ACTORS
    things: tuple[str, ...] = THINGS

    def first(self, people: int) -> Cast:
        """As many of both."""
        return Cast(actors=self.actors[:people], things=self.things[:people])

    def asked(self, kind: int) -> tuple[str, ...]:
        """What a kind of question is about."""
        return self.actors if kind == 1 else self.things


@dataclass(frozen=True)
class Stay:
    """That something is in a room, and the events that say so, in order."""

    room: str
    supports: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """Events that one event leads to, or the question where `read` is None: those that count, and those like them."""

    read: int | None
    found: tuple[int, ...]
    alike: tuple[int, ...]

    def look(self, spans: Sequence[Span]) -> Look:
        """The same of the sentences that tell the events."""
        return Look(
            read=None if self.read is None else spans[self.read],
            found=tuple(spans[at] for at in self.found),
            alike=tuple(spans[at] for at in self.alike),
        )


@dataclass(frozen=True)
class Found:
    """A question, its answer, the events that are needed for it, in order, and how they are found."""

    question: str
    room: str
    supports: tuple[int, ...]
    path: tuple[Step, ...]
    aloud: tuple[Step, ...] = ()
    """The same when each event is said before the next is looked for; the last one holds the answer."""


@dataclass
class World:
    """What has been told so far, and what follows from it."""

    told: list[str] = field(default_factory=list)
    about: list[tuple[str, str | None]] = field(default_factory=list)
    """Of each event, who did it and to which thing; a walk is to none."""
    actors: dict[str, Stay] = field(default_factory=dict)
    carried: dict[str, str] = field(default_factory=dict)
    """Who carries a thing."""
    things: dict[str, list[Stay]] = field(default_factory=dict)
    """The rooms in which a thing was, in order; the supports of a stay are the latest that place it there."""

    def walk(self, actor: str, room: str, sentence: str) -> None:
        """An actor is in another room, with all that they carry."""
        event = self._tell(sentence, actor, None)
        self.actors[actor] = Stay(room, (event,))
        for thing, who in self.carried.items():
            if who == actor:
                taken = self.things[thing][-1].supports[0]
                self._place(thing, Stay(room, (taken, event)))

    def hand(self, actor: str, thing: str, sentence: str, *, takes: bool) -> None:
        """An actor takes a thing in the room where they are, or leaves it there."""
        event = self._tell(sentence, actor, thing)
        if takes:
            self.carried[thing] = actor
        else:
            del self.carried[thing]
        here = self.actors[actor]
        self._place(thing, Stay(here.room, (event, *here.supports)))

    def _tell(self, sentence: str, actor: str, thing: str | None) -> int:
        """Number of the event that the sentence tells."""
        self.told.append(sentence)
        self.about.append((actor, thing))
        return len(self.told) - 1

    def _place(self, thing: str, stay: Stay) -> None:
        """The first support of a stay is where the thing changed hands last, the second is that carrier's last walk."""
        stays = self.things.setdefault(thing, [])
        if stays and stays[-1].room == stay.room:
            stays[-1] = stay
        else:
            stays.append(stay)

    def answer(self, kind: int, name: str) -> Found | None:
        """What can be asked of an actor or a thing, None if nothing is known or the question would be ambiguous."""
        if kind == 1:
            stay = self.actors.get(name)
            if stay is None:
                return None
            walks = self._step(None, stay.supports, (name, None))
            return Found(f"Where is {name}?", stay.room, stay.supports, (walks,))
        stays = self.things.get(name, [])
        if kind == 2:
            if not stays:
                return None
            supports = tuple(sorted(stays[-1].supports))
            path, aloud = self._path(name, stays[-1:]), self._aloud(*stays[-1].supports)
            return Found(f"Where is the {name}?", stays[-1].room, supports, path, aloud)
        rooms = [stay.room for stay in stays]
        if len(stays) < 2 or rooms.count(rooms[-1]) > 1:
            return None
        supports = tuple(sorted({*stays[-2].supports, *stays[-1].supports}))
        question = f"Where was the {name} before it was in the {rooms[-1]}?"
        before, now = stays[-2].supports, stays[-1].supports
        # Who had it last may have had it before: then it is not said twice.
        hands = before if before[0] != now[0] else before[1:]
        return Found(question, rooms[-2], supports, self._path(name, stays[-2:]), self._aloud(*now, *hands))

    def _path(self, thing: str, stays: list[Stay]) -> tuple[Step, ...]:
        """From the thing to where it changed hands, from there to the walks of whoever had it."""
        walks: dict[int, list[int]] = {}
        for hand, walk in (stay.supports for stay in stays):
            walks.setdefault(hand, []).append(walk)
        hands = tuple(sorted(walks))
        steps = [self._step(hand, tuple(walks[hand]), (self.about[hand][0], None)) for hand in hands]
        return (self._step(None, hands, (None, thing)), *steps)

    def _aloud(self, *events: int) -> tuple[Step, ...]:
        """Events one by one, each alike to those about the same thing, or, of a walk, by the same actor."""
        abouts = (self.about[event] for event in events)
        return tuple(
            self._step(None, (event,), (who if what is None else None, what))
            for event, (who, what) in zip(events, abouts, strict=True)
        )

    def _step(self, read: int | None, found: tuple[int, ...], about: tuple[str | None, str | None]) -> Step:
        """`about`: actor (None: any) and thing of the events that are alike."""
        actor, thing = about
        alike = (at for at, (who, what) in enumerate(self.about) if what == thing and actor in (None, who))
        return Step(read, found, tuple(at for at in alike if at not in found))


def told_world(rng: np.random.Generator, events: int, cast: Cast | None = None) -> World:
    """A world in which first every actor walks somewhere, and then things happen at random."""
    cast, world = cast or Cast(), World()

    def pick(names: Sequence[str]) -> str:
        return names[rng.integers(len(names))]

    for actor in rng.permutation(cast.actors).tolist():
        _walk(world, pick, actor)
    while len(world.told) < events:
        actor, luck = pick(cast.actors), rng.random()
        here = world.actors[actor].room
        free = [
            thing
            for thing in cast.things
            if thing not in world.carried
            and (thing not in world.things or world.things[thing][-1].room == here)
        ]
        held = [thing for thing, who in world.carried.items() if who == actor]
        if luck < _WALK_SHARE:
            _walk(world, pick, actor)
        elif luck < _WALK_SHARE + _TAKE_SHARE and free:
            thing = pick(free)
            world.hand(actor, thing, pick(_TAKES).format(actor=actor, thing=thing), takes=True)
        elif luck >= _WALK_SHARE + _TAKE_SHARE and held:
            thing = pick(held)
            world.hand(actor, thing, pick(_LEAVES).format(actor=actor, thing=thing), takes=False)
    return world


def _walk(world: World, pick: Callable[[Sequence[str]], str], actor: str) -> None:
    """Always into another room, so that a walk changes something."""
    here = world.actors.get(actor)
    room = pick([room for room in ROOMS if here is None or room != here.room])
    world.walk(actor, room, pick(_WALKS).format(actor=actor, room=room))


def _words(text: Background, tokenizer: Tokenizer) -> set[str]:
    """What the sentences of a text speak of, or would if all its words were nouns; nothing that evaluation names."""
    kept = {*THINGS, *ROOMS, *(actor.lower() for actor in ACTORS)}
    return set(_WORD.findall(tokenizer.decode(text.ids))) - kept


def _training_cast(rng: np.random.Generator, people: int, words: Collection[str]) -> Cast:
    """Half of the actors have known first names, half invented ones, as no list of names is long enough to learn by.

    With `words` a third are called by one of them, and things are drawn from them as well.
    """
    drawn = rng.permutation(sorted(words)).tolist()
    named = [word.capitalize() for word in drawn[: people // 3]]
    known = rng.permutation(_TRAINING_ACTORS)[: (people - len(named)) // 2].tolist()
    actors = dict.fromkeys(named + known)
    while len(actors) < people:
        actors[invent_surname(rng, held_out=False)] = None
    things = rng.permutation(sorted({*_TRAINING_THINGS, *drawn[len(named) :]}))
    return Cast(actors=tuple(actors), things=tuple(things[:people].tolist()))
