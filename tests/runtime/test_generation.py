"""What is streamed is what the model says when it reads everything again, and drawing follows the chances."""

import numpy as np
import pytest
import torch
from toys import VOCABULARY, ids_of, random_base

from megacontext.errors import ConfigError, ShapeError
from megacontext.runtime.generation import generate

PROMPT = ids_of(7)


@pytest.fixture(scope="module")
def base():
    return random_base()


@torch.inference_mode()
def last_logits(base, ids):
    ids = torch.as_tensor(np.asarray(ids, dtype=np.int64))[None]
    return base.unembed(base(base.embed(ids), torch.arange(ids.shape[1])[None], ids=ids))[0, -1]


def greedy(base, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(last_logits(base, ids).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:1], PROMPT.tolist()])
def test_temperature_zero_streams_the_likeliest_tokens(base, prompt):
    assert list(generate(base, prompt, max_tokens=9)) == greedy(base, prompt, 9)


def test_one_of_the_likeliest_is_the_likeliest_at_any_temperature(base):
    assert list(generate(base, PROMPT, max_tokens=5, temperature=3.0, top_k=1)) == greedy(base, PROMPT, 5)


def test_a_temperature_near_zero_is_temperature_zero(base):
    found = list(generate(base, PROMPT, max_tokens=5, temperature=1e-30))
    assert found == greedy(base, PROMPT, 5)


def test_a_stop_token_ends_it_and_is_not_handed_out(base):
    said = greedy(base, PROMPT, 9)
    stop = said[4]
    assert (
        list(generate(base, PROMPT, max_tokens=9, stop_ids={stop, VOCABULARY + 5}))
        == said[: said.index(stop)]
    )


def test_it_streams(base):
    """The first token comes before the second is computed."""
    read = []

    class Counted:
        vocab_size = base.vocab_size
        embed, reserve, unembed = base.embed, base.reserve, base.unembed

        device = base.device

        def __call__(self, embeddings, positions, **others):
            read.append(embeddings.shape[1])
            return base(embeddings, positions, **others)

    tokens = generate(Counted(), PROMPT, max_tokens=4)
    assert read == []
    next(tokens)
    assert read == [len(PROMPT)]
    next(tokens)
    assert read == [len(PROMPT), 1]
    tokens.close()


def test_equal_seeds_draw_equal_tokens(base):
    def drawn(seed):
        return list(generate(base, PROMPT, max_tokens=12, temperature=1.0, seed=seed))

    torch.manual_seed(1)
    first = drawn(7)
    torch.manual_seed(2)
    assert drawn(7) == first and drawn(8) != first


def test_tokens_are_drawn_by_their_chances_among_the_likeliest(base):
    """2,000 draws of one token against the softmax of the four likeliest at temperature 2."""
    logits = last_logits(base, PROMPT)
    likeliest, among = logits.topk(4)
    chances = torch.softmax(likeliest / 2, dim=-1)
    assert chances.max() < 0.9, "a fair test needs some variety"
    drawn = [
        next(generate(base, PROMPT, max_tokens=1, temperature=2.0, top_k=4, seed=seed))
        for seed in range(2000)
    ]
    counts = torch.tensor([drawn.count(int(token)) for token in among]) / len(drawn)
    assert counts.sum() == 1
    deviation = (chances * (1 - chances) / len(drawn)).sqrt()
    assert ((counts - chances).abs() < 5 * deviation + 1e-3).all()


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ([], r"a row of at least one token id, got \(0,\)"),
        ([[1, 2]], r"got \(1, 2\)"),
        ([1, VOCABULARY], r"lie in \[0, 600\), got 1 to 600"),
        ([-1], "got -1 to -1"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused_at_once(base, prompt, sentence):
    with pytest.raises(ShapeError, match=sentence):
        generate(base, prompt, max_tokens=1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must be 0 or above, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be 0 or above, got nan"),
        ({"top_k": -1}, "top_k must be 0 or above, got -1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"seed": 2**64}, "seed must not be negative and fit 63 bits"),
    ],
)
def test_options_out_of_range_are_refused_at_once(base, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        generate(base, PROMPT, **({"max_tokens": 1} | options))
