"""Facts near the start of a text, and questions about them at its end, further away than a window reaches.

Where all that is known of a fact stands far back, the loss on the answer tells whether a model sees that far, and with
what detail. All texts have one length, so that each is a row to be trained on. Sentences, names and questions are those
of `tasks.facts`; of a value's 64 x 64 pairs of words each is as likely.

Deliberately knows nothing of windows or models: token ids in, token ids and where the answers stand out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.spans import Span
from megacontext.tasks.facts import FactsConfig, ask, invent_keys, random_values, sentence_gaps, state
from megacontext.tasks.splicing import spliced
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True)
class FarText:
    """Token ids (T,) int32, and the tokens of each answer, in the order in which they are asked for."""

    ids: np.ndarray
    answers: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class FarFacts:
    """How long a text is, how much is asked, and from how far."""

    tokens: int = 256
    facts: int = 2
    gap: int = 130
    """Tokens between the last fact and the first question."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.facts, self.gap) < 1:
            raise ConfigError(
                "a text about far facts needs at least 1 token, 1 fact and a gap of 1, "
                f"got {self.tokens}, {self.facts}, {self.gap}; raise the one that is less"
            )

    def plant(
        self, ids: np.ndarray, tokenizer: Tokenizer, rng: np.random.Generator, *, held_out: bool = True
    ) -> FarText:
        """Facts and questions around the beginning of a text (T,). Raises ConfigError where they have no room."""
        keys = invent_keys(rng, FactsConfig(keys=self.facts, attributes_per_person=1), held_out=held_out)
        values = random_values(rng, self.facts)
        said = [tokenizer.encode(state(rng, *key, value)) for key, value in zip(keys, values, strict=True)]
        asked = [
            (tokenizer.encode(ask(rng, *keys[one])), tokenizer.encode(" " + values[one]))
            for one in rng.permutation(self.facts).tolist()
        ]
        tail = sum(len(part) for pair in asked for part in pair)
        kept = self.tokens - tail - sum(map(len, said))
        if kept < self.gap or kept > len(ids):
            raise ConfigError(
                f"{self.facts} facts and their questions leave {kept} of {self.tokens} tokens for text, which must be "
                f"at least the gap of {self.gap} and at most the {len(ids)} that were given; give longer text, or "
                "ask less"
            )
        text = ids[:kept]
        ends = sentence_gaps(text, tokenizer)
        places = np.sort(rng.choice(np.append(0, ends[ends <= kept - self.gap]), size=self.facts))
        planted, _ = spliced(text, places, said)
        answers, at = [], len(planted)
        for question, answer in asked:
            at += len(question) + len(answer)
            answers.append(Span(at - len(answer), at))
        return FarText(np.concatenate([planted, *(part for pair in asked for part in pair)]), tuple(answers))
