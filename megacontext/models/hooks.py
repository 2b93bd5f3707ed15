"""Hooks that are in a model inside a with-block only, whatever happens there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from torch.utils.hooks import RemovableHandle


class Hooked(ABC):
    """A context manager that puts its hooks in and takes them out again."""

    _handles: tuple[RemovableHandle, ...] = ()

    @abstractmethod
    def _hooks(self) -> Iterator[RemovableHandle]:
        """Put them in, one by one."""

    def __enter__(self) -> Self:
        self._handles = tuple(self._hooks())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = ()
