"""Frozen decoders of Hugging Face's transformers as base models (extra `hf`). Importing this does not import that."""

from megacontext.models.huggingface.base import HuggingFaceBase
from megacontext.models.huggingface.gists import MeanGist

__all__ = ["HuggingFaceBase", "MeanGist"]
