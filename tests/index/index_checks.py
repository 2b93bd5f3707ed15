"""What the tests of indexes share: a memory of words, indexes that merge early, and the naive answers."""

import math

import numpy as np

from megacontext.index import AddressIndex, WordIndex, words
from megacontext.index.texts import block_texts
from megacontext.tree import Memory

SMALL = {"least_in_file": 4, "most": 64}


def said(tokenizer, tokens, seed=0):
    """Ids of common and rare words in random order."""
    rng = np.random.default_rng(seed)
    known = ["the", "rose", "of", "Emma", "walks", "and", "sees", "Zebulon", "quince", "harbour", "7"]
    text = " ".join(rng.choice(known, size=tokens, p=[0.4] + [0.06] * 10))
    return tokenizer.encode(text)[:tokens]


def memory_of(encoder, ids, path=None):
    memory = Memory.create(path, encoder.identity(), encoder)
    memory.append(ids)
    return memory


def both(memory, tokenizer):
    """The two indexes of a memory, with files from four blocks on."""
    return AddressIndex(memory, **SMALL), WordIndex(memory, tokenizer, **SMALL)


def answers(memory, tokenizer, indexes=None, seed=0):
    """What two indexes find: the matches of a random question, and the scores of some words."""
    addresses, postings = indexes or both(memory, tokenizer)
    addresses.follow()
    postings.follow()
    question = np.random.default_rng(seed).standard_normal(memory.address_width).astype(np.float32)
    return addresses.matches(question), postings.scores(words("Zebulon sees the rose and the quince"))


def naive_answers(memory, tokenizer, seed=0):
    question = np.random.default_rng(seed).standard_normal(memory.address_width).astype(np.float32)
    return (
        memory.addresses() @ question,
        naive_bm25(memory, tokenizer, words("Zebulon sees the rose and the quince")),
    )


def naive_bm25(memory, tokenizer, query, k1=1.5, b=0.75):
    """By the formula, one block and one word at a time."""
    texts = [words(t) for t in block_texts(memory, tokenizer, 0, memory.num_blocks, memory.left_tokens)]
    scores = []
    for text in texts:
        score = 0.0
        for word in query:
            having = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
            length = len(text) / (sum(map(len, texts)) / len(texts) or 1)
            often = text.count(word)
            score += idf * often * (k1 + 1) / (often + k1 * (1 - b + b * length))
        scores.append(score)
    return np.array(scores)


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
