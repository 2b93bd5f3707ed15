"""Matches are dot products of the stored addresses, whatever their bits."""

import numpy as np
import pytest
from index_checks import SMALL, memory_of, said
from toys import K

from megacontext.errors import NodeMissingError, ShapeError
from megacontext.index import AddressIndex


@pytest.fixture(scope="module")
def index(encoder, tokenizer):
    index = AddressIndex(memory_of(encoder, said(tokenizer, 101 * K + 3)), **SMALL)
    index.follow()
    return index


def test_matches_are_those_of_the_memory(index):
    addresses = index._memory.addresses()
    for seed in range(3):
        question = np.random.default_rng(seed).standard_normal(16).astype(np.float32)
        np.testing.assert_allclose(index.matches(question), addresses @ question, atol=1e-6)
    assert index.matches(question).dtype == np.float32


def test_rows_come_in_the_order_asked_for(index):
    wanted = np.array([100, 3, 3, 64, 0, 99])
    np.testing.assert_array_equal(index.rows(wanted), index._memory.addresses()[wanted])
    assert index.rows(np.empty(0, dtype=np.int64)).shape == (0, 16)
    for wrong in ([101], [-1]):
        with pytest.raises(NodeMissingError, match=r"lie in \[0, 101\)"):
            index.rows(np.array(wrong))


def test_a_question_of_another_width_is_refused(index):
    with pytest.raises(ShapeError, match="16, got"):
        index.matches(np.zeros(17, dtype=np.float32))


def test_what_lies_in_files_is_not_kept_in_memory(index):
    for segment in index.segments:
        assert segment.arrays["rows"].flags.owndata == (len(segment) < SMALL["least_in_file"])
