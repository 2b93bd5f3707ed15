"""Makes `hf_toys` importable, and makes each architecture once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hf_toys import CONFIGS, base_of


@pytest.fixture(scope="session", params=CONFIGS)
def base(request):
    """A tiny decoder of each architecture. Shared: nobody changes it."""
    return base_of(request.param)


@pytest.fixture(scope="session")
def llama():
    return base_of("llama")
