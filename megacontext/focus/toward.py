"""From one context to another of the same history, by transactions that are each legal and within the budget.

An entry that stands for more tokens than the goal's entry there has to be expanded, one that stands for fewer is
folded away with its siblings. Both contexts are antichains of one tree, so repeating this always arrives: the deepest
entry below an entry of the goal has all its siblings beside it, and once nothing is finer than the goal, the goal's own
cost leaves room for what is missing.

Deliberately ignorant of where the goal comes from and of scores.
"""

from __future__ import annotations

import numpy as np

from megacontext.errors import BudgetError, ShapeError
from megacontext.focus.context import Edit, WorkingContext


def toward(
    context: WorkingContext,
    goal: WorkingContext,
    budget: int,
    max_edits: int,
    *,
    may_expand: np.ndarray | None = None,
    may_collapse: np.ndarray | None = None,
) -> list[Edit]:
    """At most `max_edits` edits of `context` that bring it nearer to `goal`; none when nothing is left to do.

    Lower gists are opened first, so that ways down which were begun are finished; folded is what makes room for them,
    and the rest when nothing is left to open. Ties go to later spans, which a cache loses least by. `may_expand` and
    `may_collapse`, bool (W,), forbid edits of some slots, and with them perhaps to arrive. Raises ShapeError for
    contexts of two histories, BudgetError if either costs more than `budget`.
    """
    if (context.num_tokens, context.block_size) != (goal.num_tokens, goal.block_size):
        raise ShapeError(
            f"a goal must be of the same history, {goal.num_tokens} tokens in blocks of {goal.block_size} are not "
            f"{context.num_tokens} in blocks of {context.block_size}; find it for this one"
        )
    for what, one in (("context", context), ("goal", goal)):
        if one.cost > budget:
            raise BudgetError(
                f"the way to a goal must stay within the budget of {budget} positions, the {what} costs {one.cost}; "
                "fit it first or raise focus.budget"
            )
    if len(context) == 0:
        return []
    level = goal.lod[goal.slot_of(context.start)]  # (W,): of the goal's entry there
    coarser = context.lod > level
    if may_expand is not None:
        coarser &= may_expand
    # Where one member of a group is finer than the goal's entry, that entry holds the whole group.
    groups = context.groups()
    finer = groups[context.lod[groups] < level[groups]]
    if may_collapse is not None:
        finer = finer[may_collapse[finer]]
    openings = np.flatnonzero(coarser)
    openings = openings[np.lexsort((-openings, context.lod[openings]))][:max_edits].tolist()
    foldings = finer[::-1][:max_edits].tolist()
    room = (budget - context.cost) // (context.block_size - 1)

    edits: list[Edit] = []
    while len(edits) < max_edits and (openings or foldings):
        if openings and room > 0:
            edits.append(Edit("expand", openings.pop(0)))
            room -= 1
        elif foldings:
            edits.append(Edit("collapse", foldings.pop(0)))
            room += 1
        else:
            break
    return edits
