"""Facts with random values, planted in a real text, some of them superseded later.

A fact gives a person's attribute a two-word value ("Mrs Tolverick's crest is silver otter."). The persons'
names are invented from syllables, so no text contains them; values are uniform over 64 x 64 pairs, so guessing scores
nothing. A superseded fact is stated again, in the same wordings and with another value, once to three times: the
last statement counts, and nothing but the order of the statements says which that is. Several facts share a person or
an attribute, so neither alone identifies one. Sentences go in wherever a sentence of the text ends: they straddle
block boundaries as they fall.

The recipe follows needle-in-a-haystack tests (passkey retrieval; RULER's multi-key needles), with updates added.
Deliberately knows nothing of trees, contexts or models: token ids in, token ids and questions out.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from megacontext.errors import ConfigError
from megacontext.tasks.splicing import spliced
from megacontext.tokenizer import Tokenizer

_TITLES = ("Mr", "Mrs", "Miss", "Captain", "Doctor", "Lady")
_ONSETS = (
    "B",
    "Br",
    "C",
    "Cl",
    "D",
    "Dr",
    "F",
    "Fl",
    "G",
    "Gr",
    "H",
    "J",
    "K",
    "L",
    "M",
    "N",
    "P",
    "Pr",
    "Qu",
    "R",
)
_ONSETS += ("S", "Sk", "St", "T", "Th", "Tr", "V", "W", "Y", "Z")
_NUCLEI = ("a", "e", "i", "o", "u", "ay", "ea", "ie", "oa", "oo")
_MIDDLES = (
    "bb",
    "ck",
    "d",
    "ff",
    "g",
    "ld",
    "lm",
    "lv",
    "m",
    "nd",
    "ng",
    "nt",
    "p",
    "rb",
    "rd",
    "rn",
    "sh",
    "st",
    "t",
    "z",
)
_ENDINGS = (
    "ack",
    "am",
    "an",
    "ard",
    "ell",
    "er",
    "erby",
    "ey",
    "ick",
    "in",
    "ish",
    "ley",
    "on",
    "ow",
    "stead",
    "wick",
)

ATTRIBUTES = (
    "password", "crest", "emblem", "signal", "keepsake", "motto", "seal", "prize",
    "token", "charm", "wager", "toast", "disguise", "gift", "badge", "riddle",
)  # fmt: skip
_ADJECTIVES = (
    "amber", "ancient", "azure", "bitter", "blind", "bold", "brass", "bright", "broken", "calm", "clever", "cold",
    "copper", "coral", "crimson", "crooked", "dancing", "dusty", "early", "empty", "faded", "frozen", "gentle",
    "giant", "gilded", "golden", "hidden", "hollow", "humble", "hungry", "iron", "ivory", "jolly", "lazy", "little",
    "lonely", "lucky", "marble", "merry", "mossy", "narrow", "noble", "painted", "pale", "paper", "patient", "plain",
    "proud", "purple", "quiet", "rusty", "scarlet", "secret", "silent", "silver", "sleepy", "smiling", "solemn",
    "spotted", "stolen", "velvet", "wandering", "wild", "wooden",
)  # fmt: skip
NOUNS = (
    "acorn", "anchor", "anvil", "apple", "arrow", "badger", "basket", "beacon", "bell", "candle", "castle", "cedar",
    "comet", "cradle", "crown", "dagger", "dolphin", "dragon", "eagle", "falcon", "feather", "ferry", "fiddle",
    "fountain", "garden", "goblet", "hammer", "harp", "heron", "island", "jackdaw", "kettle", "ladder", "lantern",
    "lion", "maple", "meadow", "mirror", "needle", "orchard", "otter", "oyster", "parrot", "pebble", "pilgrim",
    "pony", "raven", "river", "saddle", "sailor", "shepherd", "sparrow", "spider", "spindle", "teapot", "thimble",
    "tiger", "trumpet", "turnip", "violin", "wagon", "walnut", "weaver", "windmill",
)  # fmt: skip
_STATEMENTS = (
    " {person}'s {attribute} is {value}.",
    " The {attribute} of {person} is {value}.",
    " As for {person}, the {attribute} is {value}.",
    " They say that {person}'s {attribute} is {value}.",
    " Let it be known that the {attribute} of {person} is {value}.",
)
_QUESTIONS = (
    "What is {person}'s {attribute}?",
    "What is the {attribute} of {person}?",
    "Do you remember {person}'s {attribute}?",
)
_SENTENCE_END = re.compile(rb"[.!?][\"'_)]*\s")


@dataclass(frozen=True, kw_only=True)
class FactsConfig:
    """How many facts go into one history, and how often they change."""

    keys: int = 24
    """Distinct (person, attribute) pairs, each asked for once."""
    superseded_share: float = 0.5
    """Share of the keys that are stated again with another value."""
    max_versions: int = 4
    """A superseded key has 2 .. max_versions statements, uniformly."""
    attributes_per_person: int = 3
    """Facts that share a person, so that the name alone does not find them."""

    def __post_init__(self) -> None:
        if self.keys < 1:
            raise ConfigError(f"facts.keys must be at least 1, got {self.keys}; ask for one fact or more")
        if not 0.0 <= self.superseded_share <= 1.0:
            raise ConfigError(
                f"facts.superseded_share must lie in [0, 1], got {self.superseded_share}; it is a share"
            )
        if self.max_versions < 2:
            raise ConfigError(f"facts.max_versions must be at least 2, got {self.max_versions}; raise it")
        if not 1 <= self.attributes_per_person <= len(ATTRIBUTES):
            raise ConfigError(
                f"facts.attributes_per_person must lie in [1, {len(ATTRIBUTES)}], got {self.attributes_per_person}"
            )


@dataclass(frozen=True)
class Statement:
    """One planted sentence: where it stands (tokens [start, stop) of the history) and the value it gives."""

    start: int
    stop: int
    value: str


@dataclass(frozen=True)
class Question:
    """A question about one key. `statements` in time order; the last one holds the answer."""

    person: str
    attribute: str
    prompt: str
    answer: str
    statements: tuple[Statement, ...]

    @property
    def superseded(self) -> bool:
        return len(self.statements) > 1

    @property
    def needed(self) -> Statement:
        return self.statements[-1]


@dataclass(frozen=True)
class PlantedHistory:
    """Token ids (T,) int32 of a text with its facts in place, and the questions about them."""

    ids: np.ndarray
    questions: tuple[Question, ...]


def is_held_out(surname: str) -> bool:
    """Whether `surname` is kept for evaluation; training draws only from the rest, so no asked name was ever seen."""
    return hashlib.blake2b(surname.encode(), digest_size=1).digest()[0] < 64


def invent_surname(rng: np.random.Generator, *, held_out: bool) -> str:
    """A surname made of syllables, from the evaluation names or from the training names."""
    while True:
        parts = [_ONSETS, _NUCLEI, _MIDDLES, _ENDINGS]
        if rng.random() < 0.3:
            parts = [_ONSETS, _NUCLEI, _MIDDLES, _NUCLEI, _MIDDLES, _ENDINGS]
        surname = "".join(part[rng.integers(len(part))] for part in parts)
        if is_held_out(surname) == held_out:
            return surname


def invent_keys(rng: np.random.Generator, config: FactsConfig, *, held_out: bool) -> list[tuple[str, str]]:
    """`config.keys` distinct (person, attribute) pairs in random order."""
    pairs: list[tuple[str, str]] = []
    surnames: set[str] = set()
    while len(pairs) < config.keys:
        surname = invent_surname(rng, held_out=held_out)
        if surname in surnames:
            continue
        surnames.add(surname)
        person = f"{_TITLES[rng.integers(len(_TITLES))]} {surname}"
        chosen = rng.choice(len(ATTRIBUTES), size=config.attributes_per_person, replace=False)
        pairs.extend((person, ATTRIBUTES[which]) for which in chosen)
    order = rng.permutation(len(pairs))[: config.keys]
    return [pairs[which] for which in order]


def random_values(rng: np.random.Generator, count: int) -> list[str]:
    """`count` two-word values, all different. Raises ConfigError when there are not so many."""
    if count > len(_ADJECTIVES) * len(NOUNS):
        raise ConfigError(
            f"a history holds at most {len(_ADJECTIVES) * len(NOUNS):,} statements, because all values differ, "
            f"got {count:,}; lower facts.keys or facts.max_versions"
        )
    pairs = rng.choice(len(_ADJECTIVES) * len(NOUNS), size=count, replace=False)
    return [f"{_ADJECTIVES[pair // len(NOUNS)]} {NOUNS[pair % len(NOUNS)]}" for pair in pairs.tolist()]


def state(rng: np.random.Generator, person: str, attribute: str, value: str) -> str:
    """A sentence that gives the value, in one of several wordings."""
    return _STATEMENTS[rng.integers(len(_STATEMENTS))].format(person=person, attribute=attribute, value=value)


def ask(rng: np.random.Generator, person: str, attribute: str) -> str:
    """A prompt that asks for the key, in one of several wordings."""
    return as_prompt(_QUESTIONS[rng.integers(len(_QUESTIONS))].format(person=person, attribute=attribute))


def as_prompt(question: str) -> str:
    """A question as the models trained on this task read it; the answer follows directly, up to the end of the line."""
    return f"\nQuestion: {question}\nAnswer:"


def has_sentence_end(text: str) -> bool:
    """Whether there is a place in `text` where a fact can be put."""
    return _SENTENCE_END.search(text.encode()) is not None


def sentence_gaps(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Positions int64 (G,) in `ids` where a sentence has just ended, so that another may be put in."""
    pieces = [tokenizer.token_bytes(token) for token in ids.tolist()]
    ends = np.cumsum([len(piece) for piece in pieces])
    stops = np.fromiter(
        (match.end() - 1 for match in _SENTENCE_END.finditer(b"".join(pieces))), dtype=np.int64
    )
    # The whitespace after the full stop belongs to the next token, so a gap is where a token ends with the sentence.
    return np.flatnonzero(np.isin(ends, stops)) + 1


def plant(
    ids: np.ndarray,
    tokenizer: Tokenizer,
    config: FactsConfig,
    rng: np.random.Generator,
    *,
    held_out: bool = True,
) -> PlantedHistory:
    """Put facts into a text at depths drawn uniformly from its sentence ends.

    `ids` int32 (T,) is the text. The same generator state gives the same history. Raises ConfigError when the text
    has no sentence end, or there are more statements than values.
    """
    keys = invent_keys(rng, config, held_out=held_out)
    superseded = rng.permutation(config.keys) < round(config.superseded_share * config.keys)
    versions = np.where(superseded, rng.integers(2, config.max_versions + 1, size=config.keys), 1)
    owners = np.repeat(np.arange(config.keys), versions)
    gaps = sentence_gaps(ids, tokenizer)
    if not len(gaps):
        raise ConfigError(
            f"a text must have a sentence end to plant a fact at, got none in {len(ids)} tokens; give a longer text"
        )
    owners = owners[rng.permutation(len(owners))]
    places = np.sort(rng.choice(gaps, size=len(owners)))
    values = random_values(rng, len(owners))

    said = [
        tokenizer.encode(state(rng, *keys[owner], value))
        for owner, value in zip(owners.tolist(), values, strict=True)
    ]
    planted, spans = spliced(ids, places, said)
    statements: list[list[Statement]] = [[] for _ in keys]
    for owner, span, value in zip(owners.tolist(), spans, values, strict=True):
        statements[owner].append(Statement(span.start, span.stop, value))
    questions = tuple(
        Question(person, attribute, ask(rng, person, attribute), " " + made[-1].value, tuple(made))
        for (person, attribute), made in zip(keys, statements, strict=True)
    )
    return PlantedHistory(planted, questions)
