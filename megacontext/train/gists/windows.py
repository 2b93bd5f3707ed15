"""Training windows: stretches of random documents, prose and code in the share that the recipe asks for, and windows
that ask for planted facts.

The same state of the generator gives the same windows. Deliberately knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megacontext.corpus.documents import Document, load_documents
from megacontext.errors import ConfigError
from megacontext.runtime.embedding_windows import EmbeddingWindow
from megacontext.runtime.planted_windows import PlantedConfig, planted_window
from megacontext.tokenizer import Tokenizer
from megacontext.train.gists.config import GistTrainConfig


class WindowSampler:
    """Draws windows from whole documents; none reaches over the end of one."""

    def __init__(
        self,
        prose: Sequence[Document],
        code: Sequence[Document],
        code_share: float,
        tokenizer: Tokenizer,
        planted: PlantedConfig,
    ):
        self._prose, self._tokenizer, self._planted = [one.ids for one in prose], tokenizer, planted
        self._kinds = [
            (one, share) for one, share in ((prose, 1 - code_share), (code, code_share)) if share > 0
        ]

    def check(self, tokens: int) -> None:
        """Raises ConfigError unless there are documents of each kind that hold a window of `tokens`."""
        for documents, _ in self._kinds:
            longest = max((len(one.ids) for one in documents), default=0)
            if longest < tokens:
                raise ConfigError(
                    f"a stage's longest window takes {tokens:,} tokens, the longest document of a kind has "
                    f"{longest:,}; "
                    "name longer documents or lower max_blocks and max_coarse"
                )

    def batch(
        self, rng: np.random.Generator, count: int, window: EmbeddingWindow, planted_share: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Windows int64 (count, tokens), and which of their scored tokens count, bool (count, scored).

        Prose and code by their shares, documents by length; some of them planted, drawn one by one.
        """
        rows, counted = [], []
        for _ in range(count):
            if rng.random() < planted_share:
                one = planted_window(window, self._prose, self._tokenizer, self._planted, rng, held_out=False)
                rows.append(one.ids)
                counted.append(one.answers)
            else:
                kind = rng.choice(len(self._kinds), p=[share for _, share in self._kinds])
                rows.append(self._window(rng, self._kinds[kind][0], window.tokens))
                counted.append(np.ones(window.scored_tokens, dtype=bool))
        return np.stack(rows).astype(np.int64), np.stack(counted)

    def _window(self, rng: np.random.Generator, documents: Sequence[Document], tokens: int) -> np.ndarray:
        places = np.array([max(0, len(one.ids) - tokens + 1) for one in documents], dtype=np.float64)
        ids = documents[rng.choice(len(documents), p=places / places.sum())].ids
        start = int(rng.integers(len(ids) - tokens + 1))
        return ids[start : start + tokens]


def load_sampler(config: GistTrainConfig, tokenizer: Tokenizer) -> WindowSampler:
    """The documents of a recipe as ids. Raises ConfigError, UnknownVariantError for one that cannot be read."""
    prose = load_documents(config.documents, tokenizer.encode)
    code = load_documents(config.code, tokenizer.encode) if config.code_share > 0 else []
    return WindowSampler(prose, code, config.code_share, tokenizer, config.planted)
