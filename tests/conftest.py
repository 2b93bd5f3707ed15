"""Fixtures that cost something are made once. Torch is imported only by the tests that ask for it."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported, here and in subprocesses: toy matrices are slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The checkout as well: without it, the folder tests/workbench would pass for the package of that name.
# And kernels/, so that a checkout that was never installed has megakernels.
_TESTS = Path(__file__).parent
sys.path[:0] = [str(_TESTS), str(_TESTS.parent), str(_TESTS.parent / "kernels")]

# A deadline per example measures the machine and its other work, not the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """How workers share the tests out: by what is made once for many, which is then made by one worker alone."""
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path, _, name = nodeid.partition("::")
            if "/test_browser" in path:
                # A page waits seconds for a machine that two browsers keep busy.
                return "browser"
            if path.endswith("/test_notebooks.py"):
                # What is asked of one notebook is asked of one export.
                return name.partition("[")[2] or path
            return path

    return Sharing(config, log)


@pytest.fixture(scope="session")
def tokenizer():
    """600 ids, learnt from a stretch of a shipped book and from facts."""
    from toys import train_tokenizer

    return train_tokenizer()


@pytest.fixture(scope="session")
def bundle(tokenizer):
    """Small random networks. Shared: nobody changes them."""
    from toys import random_bundle

    return random_bundle(tokenizer)


@pytest.fixture(scope="session")
def encoder(bundle):
    from megacontext.runtime.encoding import BundleEncoder

    return BundleEncoder(bundle)


@pytest.fixture(scope="session")
def planted(tokenizer):
    """A stretch of a book with eight facts, half of them superseded."""
    import numpy as np
    from toys import prose

    from megacontext.tasks.facts import FactsConfig, plant

    return plant(tokenizer.encode(prose(2400)), tokenizer, FactsConfig(keys=8), np.random.default_rng(0))


@pytest.fixture(scope="session")
def memory(bundle, encoder, planted):
    """The planted history in RAM. Shared: nobody appends to it."""
    from megacontext.tree import Memory

    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(planted.ids)
    return memory


@pytest.fixture(scope="session")
def disk_memory(bundle, encoder, planted, tmp_path_factory):
    """The same on disk, opened for reading."""
    from megacontext.tree import Memory

    path = tmp_path_factory.mktemp("trees") / "planted"
    with Memory.create(path, encoder.identity(), encoder) as memory:
        memory.append(planted.ids)
    with Memory.open(path, encoder.identity()) as memory:
        yield memory


@pytest.fixture(scope="session")
def bundle_folder(bundle, tokenizer, tmp_path_factory):
    """The random networks, saved. Shared: copy before damaging."""
    folder = tmp_path_factory.mktemp("models") / "toy"
    bundle.save(folder)
    return folder


@pytest.fixture(scope="session")
def browser():
    """Chromium, as Debian has it. Skips where there is none."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from workbench.bench.chromium import chromium, executable

    if executable() is None:
        pytest.skip("no chromium on this machine; .ci/run installs it")
    with chromium() as browser:
        yield browser
