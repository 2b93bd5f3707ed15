"""Why an entry has the level that it has: one code per entry for what one focus step did with it, or why it did not.

A gist that scores above the threshold wanted to be expanded; an entry of a group that scores below -threshold was ready
to make room. The code names the first thing that stood in the way, the hard before the soft: rules, then cooldown,
then the limit of edits, then room. Computed on request, never while planning.

Deliberately ignorant of how the strategy weighs: where nothing stood in the way, it chose otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from megacontext.focus.context import Edit
from megacontext.focus.options import AllocatorConfig, Standing


class Reason(IntEnum):
    """What became of an entry in one step. `words` says it to a reader."""

    BELOW_THRESHOLD = 0
    EXPANDED = 1
    COLLAPSED = 2
    EXCLUDED = 3
    PINNED = 4
    PROTECTED = 5
    RESTING = 6
    EDIT_LIMIT = 7
    BUDGET = 8
    PASSED_OVER = 9
    WANTED_SIBLING = 10
    SPLIT_FAMILY = 11
    NOT_NEEDED = 12

    @property
    def words(self) -> str:
        """A clause to follow "this entry was left as it is, because" or, for the edits, to stand alone."""
        return _WORDS[self]


_WORDS = {
    Reason.BELOW_THRESHOLD: "its score asks for neither more detail nor less",
    Reason.EXPANDED: "it was expanded",
    Reason.COLLAPSED: "it was collapsed with its siblings",
    Reason.EXCLUDED: "it wants detail, but its span is excluded",
    Reason.PINNED: "it could make room, but it is pinned or has a pinned sibling",
    Reason.PROTECTED: "it could make room, but it touches the protected last tokens",
    Reason.RESTING: "the opposite was done to it too short a time ago",
    Reason.EDIT_LIMIT: "it wants detail, but the edits of this step or the steps of this refocus were used up",
    Reason.BUDGET: "it wants detail, but the budget has no room and nothing was to be given up for it",
    Reason.PASSED_OVER: "it wants detail, but the strategy kept what room there was for other ways down",
    Reason.WANTED_SIBLING: "it could make room, but one of its siblings wants detail",
    Reason.SPLIT_FAMILY: "it could make room, but its siblings are not all at its level",
    Reason.NOT_NEEDED: "it could make room, but no more was needed",
}


def reasons(
    standing: Standing, edits: Sequence[Edit], room_after: int, config: AllocatorConfig, *, stopped: bool
) -> np.ndarray:
    """A Reason per entry, int8 (W,).

    `edits` were made of what `standing` saw and left `room_after` expansions unused; `stopped` says that the refocus
    had no step left for more.
    """
    context, groups = standing.context, standing.groups
    of_slot = groups.of_slot
    grouped = of_slot >= 0
    codes = np.full(len(context), Reason.BELOW_THRESHOLD, dtype=np.int8)

    # Candidates to make room: by their group, or alone where the family is split. The unfinished tail cannot.
    alone_low = ~grouped & (standing.scores < -config.threshold)
    alone_low &= (context.lod > 0) | (context.costs == context.block_size)
    codes[alone_low] = Reason.SPLIT_FAMILY
    codes[grouped] = np.select(
        [
            ~standing.low,
            standing.pinned,
            standing.recent,
            standing.just_opened,
            standing.holds_wanted,
        ],
        [
            Reason.BELOW_THRESHOLD,
            Reason.PINNED,
            Reason.PROTECTED,
            Reason.RESTING,
            Reason.WANTED_SIBLING,
        ],
        Reason.NOT_NEEDED,
    )[of_slot[grouped]]

    wanted = standing.wanted
    left = Reason.PASSED_OVER if room_after > 0 else Reason.BUDGET
    if stopped or len(edits) >= config.max_edits:
        left = Reason.EDIT_LIMIT
    codes[wanted] = np.select(
        [standing.excluded[wanted], standing.resting[wanted]], [Reason.EXCLUDED, Reason.RESTING], left
    )
    expanded = [edit.slot for edit in edits if edit.kind == "expand"]
    collapsed = [edit.slot for edit in edits if edit.kind == "collapse"]
    codes[expanded] = Reason.EXPANDED
    if collapsed:
        codes[grouped & np.isin(of_slot, of_slot[collapsed])] = Reason.COLLAPSED
    return codes
