"""What was done to the nodes that a context shows, and to those above them: the last few edits of each.

A session that goes on remembers it from refocus to refocus, to say later why an entry has its level. Nodes that are no
longer near what is shown are forgotten, so that the memory grows with the context and not with the history.
Deliberately ignorant of scores and reasons.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megacontext.focus import FocusStep, WorkingContext
from megacontext.focus.state import edited_node
from megacontext.spans import Node, node_span

Edits = dict[Node, list[tuple[int, str]]]
"""By node: number of the refocus, and the edit ("fold" where it only made room), oldest first."""

KEPT = 16
"""How many of the last edits of a node are remembered."""


def with_refocus(
    edits: Edits,
    number: int,
    fitted: WorkingContext,
    folded: np.ndarray,
    steps: Sequence[FocusStep],
    context: WorkingContext,
) -> Edits:
    """`edits` and those of refocus `number`, as far as their nodes are near what `context` shows.

    `folded` are the slots of `fitted` into which entries gave way before anything was scored, int64 (n,).
    """
    said = [(Node(int(fitted.lod[slot]), int(fitted.index[slot])), "fold") for slot in folded]
    for step in steps:
        said += [(edited_node(step.context, edit), edit.kind) for edit in step.edits]
    known = dict(edits)
    for node, kind in said:
        known[node] = [*known.get(node, ()), (number, kind)][-KEPT:]
    return {node: kinds for node, kinds in known.items() if _is_near(node, context)}


def _is_near(node: Node, context: WorkingContext) -> bool:
    """Whether a node is shown, or opened into what is shown."""
    start = node_span(node, context.block_size).start
    if start >= context.num_tokens:
        return False
    slot = int(context.slot_of(np.array([start]))[0])
    return max(int(context.lod[slot]), 1) <= node.lod
