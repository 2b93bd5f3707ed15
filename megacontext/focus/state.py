"""What the allocator remembers from one step to the next: when a node was opened or closed, and what will not reopen.

The random choices of a strategy are drawn from (seed, step), so that the step counter is all the random state there is:
a state that was saved goes on to the same edits.

Deliberately ignorant of contexts' contents: nodes and step numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from megacontext.errors import ConfigError
from megacontext.focus.context import Edit, WorkingContext
from megacontext.spans import Node


@dataclass(frozen=True, kw_only=True)
class AllocatorState:
    """What the allocator remembers between steps. A new session, or an unrelated question, starts fresh."""

    step: int = 0
    """Steps planned so far."""
    expanded_at: Mapping[Node, int] = field(default_factory=dict)
    """Step at which a node was expanded, as long as its cooldown lasts."""
    collapsed_at: Mapping[Node, int] = field(default_factory=dict)
    """Step at which a node took the place of its children, as long as its cooldown lasts."""
    closed: frozenset[Node] = frozenset()
    """Nodes that `refocus` has closed and will not open again: why it always comes to an end."""

    def after(self, context: WorkingContext, edits: Iterable[Edit], cooldown_steps: int) -> AllocatorState:
        """The state of the next step: `edits` of `context` noted, what has rested forgotten."""
        step = self.step + 1
        expanded = {node: at for node, at in self.expanded_at.items() if step - at <= cooldown_steps}
        collapsed = {node: at for node, at in self.collapsed_at.items() if step - at <= cooldown_steps}
        for edit in edits:
            node = edited_node(context, edit)
            (expanded if edit.kind == "expand" else collapsed)[node] = self.step
        return replace(self, step=step, expanded_at=expanded, collapsed_at=collapsed)

    def resting_expanded(self, cooldown_steps: int) -> frozenset[Node]:
        """Nodes opened too short a time ago to be closed."""
        return _recent(self.expanded_at, self.step, cooldown_steps)

    def resting_collapsed(self, cooldown_steps: int) -> frozenset[Node]:
        """Nodes closed too short a time ago, or in this refocus, to be opened."""
        return _recent(self.collapsed_at, self.step, cooldown_steps) | self.closed

    def to_plain(self) -> dict[str, Any]:
        """Numbers and lists only, as JSON would hold them. `from_plain` undoes it."""
        return {
            "step": self.step,
            "expanded_at": [[node.lod, node.index, at] for node, at in sorted(self.expanded_at.items())],
            "collapsed_at": [[node.lod, node.index, at] for node, at in sorted(self.collapsed_at.items())],
            "closed": [[node.lod, node.index] for node in sorted(self.closed)],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> AllocatorState:
        """The state that `to_plain` wrote. Raises ConfigError for anything else."""
        try:
            (step,) = _rows([[plain["step"]]], 1)[0]
            expanded, collapsed = (
                {Node(lod, index): at for lod, index, at in _rows(plain[name], 3)}
                for name in ("expanded_at", "collapsed_at")
            )
            closed = frozenset(Node(lod, index) for lod, index in _rows(plain["closed"], 2))
        except (KeyError, TypeError, ValueError) as problem:
            raise ConfigError(
                "an allocator's state must be what to_plain wrote, "
                f"this is not ({type(problem).__name__}: {problem}); begin with a fresh state"
            ) from None
        return cls(step=step, expanded_at=expanded, collapsed_at=collapsed, closed=closed)


def edited_node(context: WorkingContext, edit: Edit) -> Node:
    """The node that an edit opens, or that it puts in the place of its children."""
    lod, index = int(context.lod[edit.slot]), int(context.index[edit.slot])
    if edit.kind == "expand":
        return Node(lod, index)
    return Node(lod + 1, index // context.block_size if lod else index)


def among(lod: np.ndarray, index: np.ndarray, nodes: frozenset[Node]) -> np.ndarray:
    """Whether each (lod, index), int64 (n,), is one of `nodes`, bool (n,)."""
    if not nodes:
        return np.zeros(len(lod), dtype=bool)
    # Levels stay far below 64, so that a node is one integer.
    return np.isin(index * 64 + lod, np.array([node.index * 64 + node.lod for node in nodes], dtype=np.int64))


def _recent(times: Mapping[Node, int], step: int, cooldown_steps: int) -> frozenset[Node]:
    return frozenset(node for node, at in times.items() if step - at <= cooldown_steps)


def _rows(rows: Sequence[Sequence[int]], width: int) -> list[tuple[int, ...]]:
    """Rows of `width` integers from 0 up. Raises TypeError or ValueError."""
    for row in rows:
        if len(row) != width or not all(type(number) is int and number >= 0 for number in row):
            raise ValueError(f"{row!r} is no {width} whole numbers")
    return [tuple(row) for row in rows]
