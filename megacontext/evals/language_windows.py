"""Windows of held-out text for language measurements of trained bundles: which text, which windows, whose wrong gists.

Windows are taken so that no token is scored twice, evenly over the documents of a genre. Those whose scored tokens lie
in one segment of 2,048 tokens are no independent samples, so errors are over segments. Every window is given two others
to take gists of: one of another document of the genre, and, where the document is long enough, one far away in the
same.

A model may not have been trained on what it is measured on: the recipe beside its weights says what it read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from megacontext.config import load_table
from megacontext.corpus.documents import Document, load_documents
from megacontext.errors import ConfigError
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.embedding_windows import EmbeddingWindow
from megacontext.runtime.planted_windows import PlantedConfig, planted_window
from megacontext.tokenizer import Tokenizer

SEGMENT = 2048
"""Tokens."""
_APART = 4 * SEGMENT
"""Tokens between a window and one elsewhere in its document, at least."""


@dataclass(frozen=True, kw_only=True)
class Genre:
    """Documents of one kind."""

    name: str
    measured: tuple[str, ...]
    """Held-out documents, by the names of `corpus.documents`."""
    others: tuple[str, ...] = ()
    """More of the same kind, which give wrong gists alone; a model may have been trained on them."""
    planted: bool = False
    """Facts are planted in its windows, and only the answers about them are scored."""


PROSE = Genre(name="prose", measured=("pride-and-prejudice",), others=("northanger-abbey",))
CODE = Genre(name="code", measured=("stdlib-held-out",))
FACTS = Genre(name="facts", measured=("pride-and-prejudice",), planted=True)


def measured_prose(genres: Sequence[Genre], book: str) -> tuple[Genre, ...]:
    """Another book in the place of every genre's but code, which is left out: what `--book` means here."""
    return tuple(
        replace(one, measured=(book,), others=tuple(other for other in one.others if other != book))
        for one in genres
        if one.name != CODE.name
    )


@dataclass(frozen=True)
class Window:
    """One window and what wrong gists are made of."""

    document: str
    segment: str
    """The segment in which it is scored; windows of one are not independent."""
    start: int
    """Of the window in its document, in tokens."""
    ids: np.ndarray
    """int64 (tokens,)."""
    wrong_document: str
    wrong: np.ndarray
    """int64 (tokens,): a window of another document."""
    elsewhere: np.ndarray | None
    """int64 (tokens,): a window of the same document, far away; None where there is none."""
    counted: np.ndarray | None = None
    """bool (scored,): the scored tokens that count; None for all."""


def load_models(names: Sequence[str]) -> dict[str, Bundle]:
    """Bundles by the last part of their names, or the last two, of one vocabulary and block size.

    Raises ConfigError, CheckpointError.
    """
    loaded: dict[str, Bundle] = {}
    folders = [model_folder(name).resolve() for name in names]
    for folder in folders:
        alike = sum(other.name == folder.name for other in folders) > 1 or folder.name == "model"
        short = "/".join(folder.parts[-2:]) if alike else folder.name
        if short in loaded:
            raise ConfigError(
                f"models are told apart by the names of their folders, {short} is given twice; rename or drop one"
            )
        loaded[short] = Bundle.load(folder)
    if not loaded:
        raise ConfigError("a measurement needs a model, got none; name one")
    kinds = {(one.tokenizer.fingerprint, one.config.block_size) for one in loaded.values()}
    if len(kinds) > 1:
        raise ConfigError(
            f"models compared in one run must share vocabulary and block size, {', '.join(loaded)} do not; "
            "measure them one by one"
        )
    return loaded


def check_held_out(names: Sequence[str], genres: Sequence[Genre]) -> None:
    """Raises ConfigError where the recipe in a model's folder says that it was trained on what is to be measured."""
    for name in names:
        recipe = model_folder(name) / "recipe.toml"
        table = load_table(recipe) if recipe.is_file() else {}
        read = {str(one) for key in ("books", "documents") for one in table.get(key, [])}
        if both := sorted(read & {one for genre in genres for one in genre.measured}):
            raise ConfigError(
                f"measured documents must be held out, {name} was trained on {', '.join(both)}; name others"
            )


def load_genre(genre: Genre, bundle: Bundle) -> tuple[list[Document], list[Document]]:
    """The documents of a genre that are measured, and all that wrong gists may come from."""
    measured = load_documents(genre.measured, bundle.tokenizer.encode)
    return measured, measured + load_documents(genre.others, bundle.tokenizer.encode)


def cut_windows(
    genre: str,
    documents: Sequence[Document],
    pool: Sequence[Document],
    tokens: int,
    scored: int,
    n: int,
    seed: int,
) -> list[Window]:
    """`n` windows of `tokens` ids each, the last `scored` of which no other window scores; fewer where there are fewer.

    The same arguments give the same windows. Raises ConfigError where there is none, or no other document.
    """
    places = [
        (document, start)
        for document in documents
        for start in range(0, len(document.ids) - tokens + 1, scored)
    ]
    if not places:
        raise ConfigError(
            f"a window takes {tokens:,} tokens and no document of {genre} is as long; name longer ones or shorten it"
        )
    if len(places) > n:
        places = [places[at] for at in np.linspace(0, len(places) - 1, n).round().astype(int)]
    rng = np.random.default_rng((seed, tokens))
    return [_window(genre, document, start, pool, tokens, scored, rng) for document, start in places]


def planted_windows(
    window: EmbeddingWindow,
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    config: PlantedConfig,
    n: int,
    seed: int,
) -> list[Window]:
    """`n` windows of prose that ask for facts, with names that training never draws; wrong gists are of the next one's.

    Their facts are drawn one window at a time, so each is a segment of its own. Raises ConfigError.
    """
    if n < 2:
        raise ConfigError(
            f"wrong gists of planted windows need another window, got n = {n}; ask for 2 at least"
        )
    books = [one.ids for one in documents]
    drawn = [
        planted_window(window, books, tokenizer, config, np.random.default_rng((seed, number)), held_out=True)
        for number in range(n)
    ]
    return [
        Window(
            document="+".join(one.name for one in documents),
            segment=f"window {number}",
            start=number,
            ids=one.ids,
            wrong_document=f"window {(number + 1) % n}",
            wrong=drawn[(number + 1) % n].ids,
            elsewhere=None,
            counted=one.answers,
        )
        for number, one in enumerate(drawn)
    ]


def _window(
    genre: str,
    document: Document,
    start: int,
    pool: Sequence[Document],
    tokens: int,
    scored: int,
    rng: np.random.Generator,
) -> Window:
    others = [one for one in pool if one.name != document.name and len(one.ids) >= tokens]
    if not others:
        raise ConfigError(
            f"gists of a wrong document need another one of {tokens:,} tokens beside {document.name}, {genre} has "
            f"none; "
            "name more"
        )
    other = others[rng.integers(len(others))]
    wrong = int(rng.integers(len(other.ids) - tokens + 1))
    far = [
        first
        for first in range(0, len(document.ids) - tokens + 1, scored)
        if abs(first - start) >= tokens + _APART
    ]
    elsewhere = document.ids[far[rng.integers(len(far))] :][:tokens] if far else None
    return Window(
        document=document.name,
        segment=f"{document.name}:{(start + tokens - scored) // SEGMENT}",
        start=start,
        ids=document.ids[start : start + tokens].astype(np.int64),
        wrong_document=other.name,
        wrong=other.ids[wrong : wrong + tokens].astype(np.int64),
        elsewhere=None if elsewhere is None else elsewhere.astype(np.int64),
    )


def batches(windows: Sequence[Window], size: int) -> Iterator[list[Window]]:
    """`size` at a time; those with a window elsewhere never beside those without."""
    for has in (True, False):
        kind = [one for one in windows if (one.elsewhere is not None) == has]
        for first in range(0, len(kind), size):
            yield kind[first : first + size]
