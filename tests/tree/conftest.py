"""Makes `tree_fakes` importable in whichever import mode pytest runs, and offers its encoder as a fixture."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tree_fakes import ArithmeticEncoder, identity_of


@pytest.fixture
def encoder():
    return ArithmeticEncoder()


@pytest.fixture
def identity(encoder):
    return identity_of(encoder)
