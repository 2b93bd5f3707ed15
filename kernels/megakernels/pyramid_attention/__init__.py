"""Attention whose detail falls with distance."""

from megakernels.pyramid_attention.api import BACKENDS, pyramid_attention
from megakernels.pyramid_attention.distance import Distance
from megakernels.pyramid_attention.rule import Pyramid, Queries

__all__ = ["BACKENDS", "Distance", "Pyramid", "Queries", "pyramid_attention"]
