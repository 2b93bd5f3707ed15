"""Where exactly this text stands in a memory, with the words around it, found in the background.

The search itself is `megacontext.scoring.search`: one pass in bounded chunks, whatever tokens the text was cut into.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from megacontext.errors import ConfigError
from megacontext.scoring.search import search_text
from workbench.stores.background import Job
from workbench.stores.memory import MemoryStore
from workbench.stores.nodes import text_of

MOST_HITS = 50
_AROUND_TOKENS = 12


@dataclass(frozen=True)
class Place:
    """Tokens [start, stop) that hold the text, and what stands around them."""

    start: int
    stop: int
    before: str
    text: str
    after: str


def find_text(store: MemoryStore, text: str, owner: Hashable, most: int = MOST_HITS) -> Job[list[Place]]:
    """The first places of a text, in time order. Fails with a sentence where the vocabulary is not known."""

    def find(job: Job[list[Place]]) -> list[Place]:
        known = store.vocabulary()
        while not known.wait(0.1):
            job.tell(known.what)
        if known.failed:
            raise ConfigError(known.sentence)
        vocabulary, memory = known.result, store.memory
        total = max(memory.num_tokens, 1)
        hits = search_text(
            memory, vocabulary, text, most, lambda read: job.tell("reading the history", read / total)
        )
        places = []
        for hit in hits:
            first = max(0, hit.start - _AROUND_TOKENS)
            last = min(memory.num_tokens, hit.stop + _AROUND_TOKENS)
            ids = memory.tokens(first, last)
            before, found, after = (
                text_of(vocabulary, part)
                for part in (
                    ids[: hit.start - first],
                    ids[hit.start - first : hit.stop - first],
                    ids[hit.stop - first :],
                )
            )
            places.append(Place(hit.start, hit.stop, before, found, after))
        return places

    # The history before its present end does not change but for forgetting; what came later is asked for again.
    return store.latest(owner, "find", (text, store.memory.revision, store.num_tokens), find)
