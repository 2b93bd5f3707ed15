"""Every dialect agrees with a naive implementation of the contract: at once, in pieces, step by step, and padded."""

import dataclasses

import numpy as np
import pytest
import torch
from naive_gpt import FACTS, naive_logits
from toys import stir

from megacontext.models.dialect import DIALECTS
from megacontext.models.gpt import GPT, NO_TOKEN, GPTConfig

TOLERANCE = 1e-5
# Widths beyond the windows, grouped heads, an even and an odd number of layers.
SHAPES = {
    "short windows, grouped heads": (
        150,
        dict(sequence_len=160, n_layer=3, n_head=4, n_kv_head=2, window_pattern="SSSL"),
    ),
    "long windows, beyond the sequence length": (
        50,
        dict(sequence_len=40, n_layer=2, n_head=2, n_kv_head=2, window_pattern="L"),
    ),
    "one layer, one key/value head": (
        20,
        dict(sequence_len=64, n_layer=1, n_head=3, n_kv_head=1, window_pattern="S"),
    ),
}
CASES = [(dialect, name) for dialect in FACTS for name in SHAPES]


def model_and_shape(dialect, name):
    longer, shape = SHAPES[name]
    shape = shape | {"n_embd": 36 if shape["n_head"] == 3 else 32, "vocab_size": 77}
    if DIALECTS.get(dialect).short_window is None:
        shape["window_pattern"] = "L"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = GPT(GPTConfig(dialect=dialect, **shape)).eval()
    stir(model, seed=1, scale=0.2)
    return model, shape, longer


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}, {case[1]}")
def case(request):
    """Model, and for one row of tokens and one of tokens and gists: entries, positions, and the naive logits."""
    model, shape, width = model_and_shape(*request.param)
    rng = np.random.default_rng(5)
    tokens = [int(token) for token in rng.integers(0, shape["vocab_size"], width)]
    mixed = [rng.normal(size=shape["n_embd"]) if rng.random() < 0.3 else token for token in tokens]
    centres = np.cumsum(rng.integers(1, 9, width)) / 2
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    rows = [(tokens, np.arange(width, dtype=float)), (mixed, centres)]
    return model, [
        (entries, positions, naive_logits(weights, request.param[0], shape, entries, positions))
        for entries, positions in rows
    ]


def tensors(model, entries, positions):
    ids = torch.tensor([[entry if isinstance(entry, int) else NO_TOKEN for entry in entries]])
    embeddings = model.embed(ids.clamp_min(0)).detach().clone()
    for at, entry in enumerate(entries):
        if not isinstance(entry, int):
            embeddings[0, at] = torch.from_numpy(entry)
    return embeddings, torch.from_numpy(positions)[None], ids


@torch.inference_mode()
def in_pieces(model, row, pieces):
    embeddings, positions, ids = tensors(model, *row)
    cache, found, at = model.reserve(1, ids.shape[1]), [], 0
    for piece in pieces:
        span = slice(at, at + piece)
        hidden = model(embeddings[:, span], positions[:, span], ids=ids[:, span], cache=cache)
        found.append(model.unembed(hidden))
        at += piece
    return torch.cat(found, dim=1)[0]


def close(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, atol=TOLERANCE, rtol=0)


def test_the_naive_implementation_knows_the_same_dialects():
    assert list(FACTS) == DIALECTS.names()


def test_at_once(case):
    model, rows = case
    for *row, expected in rows:
        embeddings, positions, ids = tensors(model, *row)
        with torch.inference_mode():
            close(model.unembed(model(embeddings, positions, ids=ids))[0], expected)


def test_step_by_step(case):
    model, rows = case
    for *row, expected in rows:
        close(in_pieces(model, row, [1] * len(row[0])), expected)


def test_in_pieces(case):
    model, rows = case
    for *row, expected in rows:
        width = len(row[0])
        for pieces in (
            (1, width - 1),
            (width - 1, 1),
            (7, 1, 2, width - 10),
            (width // 2, width - width // 2),
        ):
            close(in_pieces(model, row, pieces), expected)


def test_side_by_side_with_padding_on_either_side(case):
    """A plain row, a mixed row cut short and padded on the left, and the same padded on the right."""
    model, rows = case
    (tokens, places, plain), (mixed, centres, mixed_logits) = rows
    width, cut = len(tokens), len(tokens) // 2
    half = tensors(model, mixed[:cut], centres[:cut])
    embeddings, positions, ids = tensors(model, tokens, places)
    embeddings, positions, ids = (
        tensor.repeat(3, *[1] * (tensor.ndim - 1)) for tensor in (embeddings, positions, ids)
    )
    padding = torch.zeros(3, width, dtype=torch.bool)
    padding[1, : width - cut] = padding[2, cut:] = True
    embeddings[1:], ids[1:] = torch.randn(2, width, embeddings.shape[-1]), NO_TOKEN
    for row, span in ((1, slice(width - cut, None)), (2, slice(0, cut))):
        embeddings[row, span], positions[row, span], ids[row, span] = (tensor[0] for tensor in half)
    with torch.inference_mode():
        logits = model.unembed(model(embeddings, positions, ids=ids, padding=padding))
        close(logits[0], plain)
        close(logits[1, width - cut :], mixed_logits[:cut])
        close(logits[2, :cut], mixed_logits[:cut])
        cache, found = model.reserve(3, width), []
        for span in (
            slice(0, width - cut),
            slice(width - cut, width - 3),
            *(slice(at, at + 1) for at in range(width - 3, width)),
        ):
            hidden = model(
                embeddings[:, span],
                positions[:, span],
                ids=ids[:, span],
                padding=padding[:, span],
                cache=cache,
            )
            found.append(model.unembed(hidden))
    logits = torch.cat(found, dim=1)
    close(logits[0], plain)
    close(logits[1, width - cut :], mixed_logits[:cut])
    close(logits[2, :cut], mixed_logits[:cut])


@pytest.mark.parametrize("dialect", DIALECTS.names())
def test_a_gradient_reaches_every_parameter(dialect):
    model, _, width = model_and_shape(dialect, "short windows, grouped heads")
    ids = torch.randint(77, (2, width), generator=torch.Generator().manual_seed(0))
    logits = model.unembed(model(model.embed(ids), torch.arange(width)[None], ids=ids))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dialect", DIALECTS.names())
def test_positions_shared_by_all_rows_may_be_given_once(dialect):
    model, _, width = model_and_shape(dialect, "short windows, grouped heads")
    ids = torch.randint(77, (3, width), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        once = model(model.embed(ids), torch.arange(width)[None], ids=ids)
        each = model(model.embed(ids), torch.arange(width).repeat(3, 1), ids=ids)
    assert torch.equal(once, each)


def test_dialects_differ_from_their_neighbours_in_what_they_compute():
    """No two rows of the table are the same data, but for the padding that changes no logit."""
    seen = set()
    for dialect in map(DIALECTS.get, DIALECTS.names()):
        values = dataclasses.asdict(dialect) | {"name": ""}
        seen.add(repr(values))
    assert len(seen) == len(DIALECTS.names())
