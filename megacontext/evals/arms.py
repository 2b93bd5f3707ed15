"""Arms: ways of spending one budget on one history, the same for every evaluation.

`none` reads the question alone, `gist-only` the coarsest cover without opening anything; every other arm is a scorer
that tells the one allocator where detail is needed, so that arms differ in nothing else. The equal-budget rule holds
by construction: every reading is measured at the attention's input and refused above the budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.focus.context import WorkingContext
from megacontext.runtime.reading import Reading
from megacontext.runtime.session import Focus, Session, starting_context
from megacontext.scoring import SCORERS

NO_CONTEXT, GIST_ONLY = "none", "gist-only"
HEADS = "&"
"""Between the scorers of an arm with several contexts, each of its share of the budget, whose ends are merged."""


@dataclass(frozen=True)
class Look:
    """What one arm made of one question."""

    readings: list[Reading]
    """One for each head."""
    focuses: list[Focus]
    """One for each head that is a scorer's."""
    hit: bool
    """Whether all needed blocks stand as tokens in one of the contexts."""

    @property
    def latency_ms(self) -> float:
        return sum((focus.latency_ms for focus in self.focuses), 0.0)

    @property
    def cost(self) -> int:
        """Positions that the first token of the answer attends to, of all heads together."""
        return sum(reading.cost for reading in self.readings)


def check_names(what: str, names: Iterable[str]) -> None:
    """Raises ConfigError for a name that is given twice."""
    names = list(names)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigError(f"every {what} must be named once, {', '.join(twice)} is more often; drop one")


def check_arms(arms: tuple[str, ...]) -> None:
    """Raises UnknownVariantError for an arm that there is not, ConfigError for one that is named twice."""
    for arm in arms:
        if arm not in (NO_CONTEXT, GIST_ONLY):
            for scorer in arm.split(HEADS):
                SCORERS.get(scorer)
    check_names("arm", arms)


def look(session: Session, arm: str, prompt: np.ndarray, *, number: int, needed: tuple[int, ...]) -> Look:
    """Spend the session's budget on `prompt` (P,) as `arm` would. `needed` blocks are for the oracle alone.

    Raises BudgetError where the prompt and the coarsest cover do not fit.
    """
    if arm == NO_CONTEXT:
        return Look([session.read(None, prompt)], [], False)
    if arm == GIST_ONLY:
        memory = session.memory
        around = session.prompt_cost(prompt)
        cover = starting_context(memory.num_tokens, memory.block_size, session.config.budget, around)
        return Look([session.read(cover, prompt)], [], _shows(cover, needed))
    heads = arm.split(HEADS)
    focuses = [
        session.focus(prompt, scorer=scorer, number=number, needed_blocks=needed, heads=len(heads))
        for scorer in heads
    ]
    readings = [session.read(focus.context, prompt) for focus in focuses]
    return Look(readings, focuses, any(_shows(focus.context, needed) for focus in focuses))


def _shows(context: WorkingContext, blocks: tuple[int, ...]) -> bool:
    return bool(context.is_raw(np.array(blocks)).all())
