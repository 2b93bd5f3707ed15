"""The optional library transformers: found when it is needed, silent, and never on the network."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from megacontext.errors import BackendUnavailableError


def transformers() -> ModuleType:
    """The module `transformers`, set to read local files only. Raises BackendUnavailableError without the extra."""
    # Both are read when the library is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    library = needed("transformers")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def needed(package: str) -> ModuleType:
    """That package of the extra `hf`, imported. Raises BackendUnavailableError where it is not installed."""
    try:
        return import_module(package)
    except ModuleNotFoundError as problem:
        if problem.name != package:
            raise
        raise BackendUnavailableError(
            f"a base model of Hugging Face's needs the package {package}, which is not installed; "
            'install it with `pip install "megacontext[hf]"`'
        ) from None
