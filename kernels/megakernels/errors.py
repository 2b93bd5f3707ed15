"""What callers of a kernel may have to handle."""

from __future__ import annotations


class KernelShapeError(ValueError):
    """Tensors that do not belong together. The message names the rule, what came, and a way out."""


class BackendUnavailableError(RuntimeError):
    """A backend that was asked for by name cannot run here."""
