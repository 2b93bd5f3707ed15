"""What a page asks to have scored anew: the selected step by a scorer, from what lies on its desk."""

from __future__ import annotations

from typing import Any

from workbench.desk import Desk
from workbench.stores.replay import Wish


def wish_of(desk: Desk, step: int, by: str) -> Wish:
    """The step of the selected question, to be scored by `by`."""
    chosen = desk.selection
    folder = desk.library.run_path(chosen.run)
    memory = desk.library.memories(chosen.run).get(f"{chosen.run}/{chosen.history}")
    return Wish(
        run=str(folder), memory="" if memory is None else str(memory), history=chosen.history, arm=chosen.arm,
        question=chosen.question, step=step, by=by,
    )  # fmt: skip


class Asked:
    """One wish that is asked for until it is answered."""

    def __init__(self, desk: Desk):
        self._desk = desk
        self.wish: Wish | None = None
        self.answer: dict[str, Any] | None = None

    def want(self, step: int, by: str) -> bool:
        """Wish for a step by a scorer, nothing for none; whether that is another wish than before."""
        wish = wish_of(self._desk, step, by) if by else None
        if wish == self.wish:
            return False
        self.wish, self.answer = wish, None
        self.look()
        return True

    def again(self) -> None:
        """Wish anew: what the wish was about has changed."""
        self.wish = self.answer = None

    def look(self) -> bool:
        """Whether the answer has come just now."""
        if self.wish is None or (self.answer is not None and not self.sentence):
            return False
        # What could not be answered is asked for again: a run that goes on may have it now.
        found = self._desk.library.replay.ask(self.wish)
        if found is None or found is self.answer:
            return False
        self.answer = found
        return True

    @property
    def sentence(self) -> str:
        """Why there is no answer; empty where there is one, or none yet."""
        return "" if self.answer is None else str(self.answer.get("error", ""))
