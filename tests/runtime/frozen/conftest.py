"""One toy reader for all tests here."""

import pytest
from frozen_toys import random_reader, save_parts


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    return save_parts(tmp_path_factory.mktemp("frozen"))


@pytest.fixture(scope="session")
def reader(config):
    return random_reader(config)
