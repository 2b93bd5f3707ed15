"""Sentences put into a text at given places, and where they stand afterwards.

Deliberately knows nothing of what the sentences say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megacontext.spans import Span


def spliced(
    ids: np.ndarray, places: Sequence[int] | np.ndarray, sentences: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[Span]]:
    """`ids` (T,) with sentence i put in front of token `places[i]` of the text; places in ascending order.

    Returns the longer ids, and the span of each sentence in them. Sentences at one place follow one another as given.
    """
    parts: list[np.ndarray] = []
    spans: list[Span] = []
    copied = written = 0
    for place, sentence in zip(np.asarray(places).tolist(), sentences, strict=True):
        assert place >= copied, "places ascend"
        parts += [ids[copied:place], sentence]
        start = written + place - copied
        written, copied = start + len(sentence), place
        spans.append(Span(start, written))
    parts.append(ids[copied:])
    return np.concatenate(parts), spans
