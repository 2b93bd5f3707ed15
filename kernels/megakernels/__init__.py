"""Kernels of MegaContext: tensors in, tensors out. Each operation has its mathematics, a reference, and backends.

Layout everywhere: (B, T, H, D), batch, time, heads, head width. Deliberately knows nothing of trees, tokens or models.
"""
