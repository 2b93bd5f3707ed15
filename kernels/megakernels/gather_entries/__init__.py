"""Tokens and stored gists, side by side as the model reads them."""

from megakernels.gather_entries.api import BACKENDS, gather_entries

__all__ = ["BACKENDS", "gather_entries"]
