"""What every plan of a training says: its figures as words and as values, and the memory that it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainingPlan(ABC):
    """The figures of a run, before anything starts."""

    weights_gib: float
    """Weights and what an optimiser keeps of them, on each device."""
    activations_gib: float

    @property
    def memory_gib(self) -> float:
        """On each device."""
        return self.weights_gib + self.activations_gib

    @abstractmethod
    def rows(self) -> list[tuple[str, str]]:
        """The figures in words."""

    def described(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self) | {"memory_gib": self.memory_gib}
