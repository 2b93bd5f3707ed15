"""What queries see, held against the definition, and no mask where none is needed."""

import pytest
import torch

from megacontext.models.windows import sight

CPU = torch.device("cpu")


def seen(window, past, entries, allowed=None):
    """bool (B or 1, W, past + entries), whatever form the sight has."""
    found = sight(window, past, entries, allowed, CPU)
    mask = found.mask
    if mask is None:
        mask = torch.ones(1, 1, entries, past + entries - found.first, dtype=torch.bool)
        mask = mask.tril() if found.causal else mask
    return torch.nn.functional.pad(mask[:, 0], (found.first, 0))


def defined(window, past, entries, allowed=None):
    rows = 1 if allowed is None else len(allowed)
    table = torch.zeros(rows, entries, past + entries, dtype=torch.bool)
    for row in range(rows):
        for at in range(entries):
            query = past + at
            for key in range(past + entries):
                near = key <= query and (window is None or query - key <= window)
                table[row, at, key] = (near and (allowed is None or bool(allowed[row, key]))) or key == query
    return table


@pytest.mark.parametrize("window", [None, 0, 1, 4, 5, 6, 100])
@pytest.mark.parametrize(
    ("past", "entries"), [(0, 1), (0, 5), (0, 6), (0, 7), (5, 1), (6, 1), (3, 4), (20, 2)]
)
def test_a_query_sees_what_is_near_and_not_after_it(window, past, entries):
    assert torch.equal(seen(window, past, entries), defined(window, past, entries))


@pytest.mark.parametrize("window", [None, 0, 2, 100])
@pytest.mark.parametrize(("past", "entries"), [(0, 1), (0, 6), (5, 1), (3, 3)])
def test_padding_is_seen_by_itself_alone(window, past, entries):
    allowed = torch.rand(3, past + entries, generator=torch.Generator().manual_seed(0)) < 0.6
    assert torch.equal(seen(window, past, entries, allowed), defined(window, past, entries, allowed))


def test_plain_causal_attention_and_single_queries_need_no_mask():
    assert sight(None, 0, 9, None, CPU).causal and sight(8, 0, 9, None, CPU).causal
    assert sight(7, 0, 9, None, CPU).mask is not None
    alone = sight(4, 9, 1, None, CPU)
    assert (alone.first, alone.mask, alone.causal) == (5, None, False)
