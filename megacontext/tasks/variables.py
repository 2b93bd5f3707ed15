"""Variable tracking: a value that is handed on from person to person, among chains that do the same.

After RULER's variable tracking (Hsieh et al. 2024). A chain begins with a statement of a value; each hop says that
another person's attribute is that of the person before. Asked for is the last person's value, so every link is needed,
and no single sentence holds both the name that is asked for and the answer. All chains of a history share the attribute
and are each other's decoys.

The first statement and the question are phrased in the sentences of `tasks.facts`, which the tiny model was trained on;
the links are not: it has never seen one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.spans import Span
from megacontext.tasks.asked import Asked, AskedHistory, Background, Look
from megacontext.tasks.facts import ATTRIBUTES, FactsConfig, ask, invent_keys, random_values, state
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Variables:
    """How long the chains are and how many stand in one history."""

    hops: int = 2
    """Links behind the statement of the value."""
    chains: int = 4
    """Chains in a history; the end of each is asked for."""
    every_link: bool = False
    """Ask for every person of a chain, not for the last alone: in training the short ways teach the long ones."""

    def __post_init__(self) -> None:
        if min(self.hops, self.chains) < 1:
            raise ConfigError(
                f"variable tracking needs at least 1 hop and 1 chain, got {self.hops} and {self.chains}; raise them"
            )

    @property
    def asks(self) -> int:
        return self.chains * (self.hops + 1 if self.every_link else 1)

    def plant(
        self, text: Background, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> AskedHistory:
        links = self.hops + 1
        every = FactsConfig(keys=self.chains * links, attributes_per_person=1)
        persons = [person for person, _ in invent_keys(rng, every, held_out=held_out)]
        attribute = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
        values = random_values(rng, self.chains)
        # The chains are shuffled into one another, each keeping its own order: a link comes after what it refers to.
        owners = rng.permutation(np.repeat(np.arange(self.chains), links)).tolist()
        said: list[str] = []
        places: list[list[int]] = [[] for _ in values]
        for at, chain in enumerate(owners):
            link = len(places[chain])
            person = persons[chain * links + link]
            if link:
                said.append(f" {person}'s {attribute} is that of {persons[chain * links + link - 1]}.")
            else:
                said.append(state(rng, person, attribute, values[chain]))
            places[chain].append(at)
        ids, spans = text.with_sentences(text.draw(rng, len(said)), said, tokenizer)
        asked = range(links) if self.every_link else (self.hops,)
        questions = tuple(
            _question(
                prompt=ask(rng, persons[chain * links + hops], attribute),
                answer=" " + value,
                needed=tuple(spans[at] for at in places[chain][: hops + 1]),
            )
            for chain, value in enumerate(values)
            for hops in asked
        )
        return AskedHistory(ids, questions)


def _question(*, prompt: str, answer: str, needed: tuple[Span, ...]) -> Asked:
    """The question names the last person of `needed`; every link but the first statement names the person before."""
    reads = (None, *needed[:0:-1])
    return Asked(
        prompt=prompt,
        answer=answer,
        needed=needed,
        kind=f"{len(needed) - 1} hops",
        path=tuple(
            Look(read=read, found=(span,)) for read, span in zip(reads, reversed(needed), strict=True)
        ),
        aloud=tuple(Look(found=(span,)) for span in reversed(needed)) if len(needed) > 1 else (),
    )
