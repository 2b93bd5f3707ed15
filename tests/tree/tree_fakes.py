"""A gist encoder of integer arithmetic: exact, blind to its batch, sensitive to every token and place."""

import numpy as np

from megacontext.tree import Identity

AWKWARD_SIZES = [0, 1, 31, 32, 33, 97, 1023, 1024, 1025]


class ArithmeticEncoder:
    """Sums of token times place, modulo primes, divided by 1000 so that rounding to float16 matters."""

    def __init__(
        self, block_size=32, gist_width=6, address_width=4, left_tokens=5, fingerprint="arithmetic-1"
    ):
        self.fingerprint = fingerprint
        self.block_size = block_size
        self.gist_width = gist_width
        self.address_width = address_width
        self.left_tokens = left_tokens
        self.largest_batch = 0

    def encode_blocks(self, tokens, left):
        assert tokens.dtype == np.int32 and tokens.shape[1:] == (self.block_size,)
        assert left.dtype == np.int32 and left.shape == (len(tokens), self.left_tokens)
        self.largest_batch = max(self.largest_batch, len(tokens))
        seen = np.concatenate([left, tokens], axis=1)
        return _mix(tokens, self.gist_width, 1009), _mix(seen, self.address_width, 997)

    def encode_parents(self, children, lod):
        assert lod >= 2 and children.shape[1:] == (self.block_size, self.gist_width)
        # The bits of the numbers, so that a parent made of unrounded children cannot look right.
        bits = np.ascontiguousarray(children, dtype=np.float32).view(np.int32)
        return _mix(bits.reshape(len(children), -1) + lod, self.gist_width, 1013)


class ArithmeticSegments(ArithmeticEncoder):
    """The same of a block with all that stands before it in its segment: every vector knows the way there."""

    encode_blocks = None

    def __init__(self, block_size=4, segment_blocks=3, gist_width=6, address_width=4):
        left_tokens = (segment_blocks - 1) * block_size
        super().__init__(block_size, gist_width, address_width, left_tokens, "segments-1")
        self.segment_blocks = segment_blocks
        self.segments_read = 0

    def encode_segment(self, tokens):
        assert tokens.dtype == np.int32 and 1 <= len(tokens) <= self.segment_blocks
        self.segments_read += 1
        seen = np.cumsum(tokens.astype(np.int64) * np.arange(3, 3 + self.block_size), axis=0)
        return _mix(seen, self.gist_width, 1009), _mix(seen, self.address_width, 997)


class TrivialEncoder(ArithmeticEncoder):
    """Nearly free vectors, to time the tree and nothing else."""

    def encode_blocks(self, tokens, left):
        first = tokens[:, :1].astype(np.float32) / 65536
        return np.repeat(first, self.gist_width, axis=1), np.repeat(first, self.address_width, axis=1)

    def encode_parents(self, children, lod):
        return children[:, 0]


def _mix(rows, width, modulus):
    places = np.arange(1, rows.shape[1] + 1)
    sums = [(rows.astype(np.int64) * (places * (column + 1) % 31 + 1)).sum(axis=1) for column in range(width)]
    mixed = np.stack(sums, axis=1) if width else np.zeros((len(rows), 0))
    return (mixed % modulus).astype(np.float32) / 1000


def identity_of(encoder):
    return Identity(
        tokenizer="bpe-a", embedding="table-a", encoder=encoder.fingerprint, block_size=encoder.block_size
    )


def random_ids(count, seed=0, vocabulary=4096):
    return np.random.default_rng(seed).integers(0, vocabulary, size=count, dtype=np.int32)


def everything(memory):
    """All that a memory holds, as a dictionary of arrays."""
    held = {"tokens": memory.tokens(0, memory.num_tokens), "addresses": memory.addresses()}
    lod = 1
    while memory.count(lod):
        held[f"gists{lod}"] = memory.gists(lod, np.arange(memory.count(lod)))
        lod += 1
    return held


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
