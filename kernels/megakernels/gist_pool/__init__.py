"""One vector for many: fused pooling of blocks."""

from megakernels.gist_pool.api import BACKENDS, gist_pool

__all__ = ["BACKENDS", "gist_pool"]
