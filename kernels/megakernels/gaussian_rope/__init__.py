"""Rotary positions of entries that stand for a span."""

from megakernels.gaussian_rope.api import BACKENDS, gaussian_rope

__all__ = ["BACKENDS", "gaussian_rope"]
