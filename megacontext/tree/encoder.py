"""What the tree asks of whatever turns tokens into gists, and how blocks are cut for it.

A tree stores vectors that somebody else computes. This protocol is the border: numpy arrays in, numpy arrays
out, so that a network on a GPU, a pooled embedding table and a test's arithmetic all look alike from here. An
encoder should give a block the same vectors whatever batch it comes in; as far as it does, appending one
token at a time and appending a book at once build the same tree, bit for bit.

Deliberately ignorant of networks, devices and storage.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

NO_TOKEN = -1
"""Stands in `left` where the history has not begun yet."""


@runtime_checkable
class GistEncoder(Protocol):
    """Turns blocks of K tokens into gists (E numbers, content) and addresses (A numbers, retrieval)."""

    fingerprint: str
    """Names the weights: equal fingerprints mean equal vectors."""
    block_size: int
    """K, tokens of a block and children of a node."""
    gist_width: int
    """E, numbers in a gist of any level."""
    address_width: int
    """A, numbers in the address of a block."""
    left_tokens: int
    """How many tokens before its block an address may look at; 0 for none. A gist sees its own block only."""

    def encode_blocks(self, tokens: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gists (n, E) and addresses (n, A), float32, of int32 `tokens` (n, K).

        `left` (n, left_tokens), int32, holds what stands directly before each block, or NO_TOKEN.
        """
        ...

    def encode_parents(self, children: np.ndarray, lod: int) -> np.ndarray:
        """Gists (n, E), float32, of nodes at level `lod` >= 2 from the gists of their children (n, K, E)."""
        ...


@runtime_checkable
class SegmentEncoder(Protocol):
    """Makes the gists of whole segments: a block's know what stands before it in its segment, and nothing else.

    Segments are `segment_blocks` blocks each, counted from the beginning of the history. What a block gets must not
    depend on how many blocks follow it, for a history grows. `left_tokens` is (segment_blocks - 1) * K: how far back
    a block's vectors may have looked, which is what forgetting goes by.
    """

    fingerprint: str
    block_size: int
    gist_width: int
    address_width: int
    """0 where addresses are another version's affair."""
    left_tokens: int
    segment_blocks: int

    def encode_segment(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gists (n, E) and addresses (n, A), float32, of the first n blocks of a segment, int32 `tokens` (n, K)."""
        ...

    def encode_parents(self, children: np.ndarray, lod: int) -> np.ndarray:
        """As a `GistEncoder` does."""
        ...


Encoder = GistEncoder | SegmentEncoder
"""Either kind of maker."""


def segment_blocks(encoder: Encoder) -> int:
    """Blocks that are made together: 1 where each is made alone."""
    return encoder.segment_blocks if isinstance(encoder, SegmentEncoder) else 1


def left_windows(before: np.ndarray, blocks: np.ndarray, left_tokens: int) -> np.ndarray:
    """The ids in front of each of `blocks` (n, K), which follow `before` (left_tokens,): (n, left_tokens).

    >>> left_windows(np.array([-1, -1, -1]), np.array([[1, 2], [3, 4]]), 3)
    array([[-1, -1, -1],
           [-1,  1,  2]])
    """
    assert before.shape == (left_tokens,), (before.shape, left_tokens)
    if left_tokens == 0 or len(blocks) == 0:
        return np.empty((len(blocks), left_tokens), dtype=blocks.dtype)
    timeline = np.concatenate([before.astype(blocks.dtype), blocks.reshape(-1)])
    return np.lib.stride_tricks.sliding_window_view(timeline, left_tokens)[:: blocks.shape[1]][
        : len(blocks)
    ].copy()
