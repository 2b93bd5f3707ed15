"""Token ids to text while they are drawn: each piece is whole characters, and together they are the whole text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_CUT = "\ufffd"
"""What a decoder gives for bytes that are no character, or not yet one."""


class Spelling:
    """The text of ids that come one by one."""

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self.ids: list[int] = []
        self._told = 0

    def take(self, token: int) -> str:
        """What the text has gained by one more id; nothing where a character is not whole yet."""
        self.ids.append(token)
        whole = self._decode(self.ids).rstrip(_CUT)
        gained = whole[self._told :]
        self._told = max(self._told, len(whole))
        return gained

    def rest(self) -> str:
        """What is left when no more ids come."""
        return self.text[self._told :]

    @property
    def text(self) -> str:
        """Of all ids so far."""
        return self._decode(self.ids)
