"""LensNet sees the question and all of the context, in order and in both directions, and no padding."""

import copy
import dataclasses

import pytest
import torch
from toys import stir

from megacontext.errors import ConfigError
from megacontext.lensnet.lens import KINDS, LensInput, LensNet, LensNetConfig

E, A, N = 12, 8, 9


@pytest.fixture(scope="module")
def lens():
    torch.manual_seed(0)
    made = LensNet(LensNetConfig(width=16, heads=4), gist_width=E, address_width=A)
    stir(made, seed=0, scale=0.2)
    return made.eval()


def given_of(batch=1, entries=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LensInput(
        gists=torch.randn(batch, entries, E, generator=generator),
        addresses=torch.randn(batch, entries, A, generator=generator),
        match=torch.rand(batch, entries, generator=generator) * 2 - 1,
        kind=torch.randint(KINDS, (batch, entries), generator=generator),
        present=torch.ones(batch, entries, dtype=torch.bool),
        question=torch.randn(batch, A, generator=generator),
        words=torch.rand(batch, entries, generator=generator),
    )


ROWS = ("gists", "addresses", "match", "kind", "present", "words")


def take(given, order):
    """The same contexts with their entries in another order, or fewer or more of them."""
    return dataclasses.replace(given, **{name: getattr(given, name)[:, order] for name in ROWS})


@torch.inference_mode()
def scores(lens, given):
    return lens.scores(lens(given))


def differs(one, other):
    return (one - other).abs() > 1e-4


def test_the_score_of_every_entry_changes_with_the_question(lens):
    given = given_of()
    asked = dataclasses.replace(given, question=-given.question)
    assert differs(scores(lens, given), scores(lens, asked)).all()


@pytest.mark.parametrize("factor", [0.0, 1.0, 1e3, 1e6])
def test_scores_lie_between_minus_one_and_one(lens, factor):
    given = given_of(batch=20)
    found = scores(lens, dataclasses.replace(given, addresses=given.addresses * factor))
    assert found.shape == (20, N) and torch.isfinite(found).all() and found.abs().max() <= 1
    assert LensNet.scores(torch.tensor([-1e9, 0.0, 1e9])).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("padding", [1, 2, 7])
def test_the_padding_of_a_batch_changes_no_score(lens, padding):
    given = given_of(batch=2)
    noise = given_of(batch=2, entries=padding, seed=1)
    padded = dataclasses.replace(
        given,
        **{
            name: torch.cat((getattr(given, name), getattr(noise, name)), dim=1)
            for name in ROWS
            if name != "present"
        },
        present=torch.cat((given.present, torch.zeros(2, padding, dtype=torch.bool)), dim=1),
    )
    torch.testing.assert_close(scores(lens, padded)[:, :N], scores(lens, given))


def test_contexts_of_a_batch_do_not_see_one_another(lens):
    given = given_of(batch=3)
    alone = dataclasses.replace(given, **{name: getattr(given, name)[1:2] for name in (*ROWS, "question")})
    torch.testing.assert_close(scores(lens, alone)[0], scores(lens, given)[1])


def test_it_knows_the_order_of_the_entries(lens):
    given = given_of()
    order = list(range(N))
    order[2], order[6] = 6, 2
    swapped = scores(lens, take(given, order))[:, order]
    assert differs(swapped, scores(lens, given))[:, [2, 6]].all()


def test_a_later_entry_changes_earlier_scores_and_an_earlier_one_later_scores(lens):
    # Every score hangs on the question's state, which sees all entries. Without the pointer, what an entry's score
    # says of another entry it has seen itself.
    lens = copy.deepcopy(lens)
    with torch.no_grad():
        lens.pointer_question.weight.zero_()
        lens.pointer_question.bias.zero_()
    given = given_of()
    before = scores(lens, given)
    for changed in (0, 4, N - 1):
        addresses = given.addresses.clone()
        addresses[:, changed] *= -1
        moved = differs(scores(lens, dataclasses.replace(given, addresses=addresses)), before)
        assert moved[:, :changed].all() and moved[:, changed + 1 :].all()


def test_a_later_duplicate_is_noticed_by_the_earlier_entry_and_the_other_way_round(lens):
    given = given_of()
    duplicated = [0, 1, 2, 3, 4, 1, 6, 7, 8]
    with_copy, without = scores(lens, take(given, duplicated)), scores(lens, given)
    assert differs(with_copy, without)[0, 1], "the first of two learns of the second"
    assert differs(with_copy[0, 5], with_copy[0, 1]), "the second is not scored as the first"


def test_a_context_of_one_entry_has_a_score(lens):
    assert scores(lens, given_of(entries=1)).shape == (1, 1)


def test_every_input_reaches_the_score(lens):
    given = given_of()
    before = scores(lens, given)
    for name, change in {
        "gists": given.gists.flip(-1),
        "addresses": -given.addresses,
        "match": -given.match,
        "kind": (given.kind + 1) % KINDS,
        "question": -given.question,
    }.items():
        assert differs(scores(lens, dataclasses.replace(given, **{name: change})), before).any(), name


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"heads": 1}, {"width": 63}, {"layers": 0}])
def test_a_wrong_size_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"lens.heads must be even, divide lens.width"):
        LensNetConfig(**wrong)
