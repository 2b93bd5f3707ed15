"""Pretraining with attention over a pyramid: one key, the same tokens, the same start, and everything learns."""

import dataclasses

import numpy as np
import pytest
import torch
from pretrain_toys import recipe, trainer_of, with_steps

from megacontext.attention.pyramid import PyramidConfig
from megacontext.config import load_recipe
from megacontext.errors import ConfigError
from megacontext.gistnet.gist import GistNetConfig
from megacontext.models.gpt import GPT
from megacontext.models.pyramid import PyramidGPT
from megacontext.runtime.generation import generate
from megacontext.train.pretrain.config import PretrainConfig
from megacontext.train.pretrain.folding import FoldingConfig
from megacontext.train.pretrain.state import find_state, restore_state, save_state

# Rows of 64 tokens: 8 to 11 are read one by one, 8 more in fours, the rest by summaries of 16.
PYRAMID = {"attention": "pyramid", "pyramid": PyramidConfig(window=8, block=4, spans=(8,))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pyramids")


def losses(trainer, steps):
    return [trainer.train_step().loss_nats for _ in range(steps)]


def test_text_is_learnt_and_measured_through_the_pyramid(folder):
    trainer = trainer_of(with_steps(recipe(folder, **PYRAMID), 30), folder)
    before, found = trainer.evaluate().bits_per_byte, losses(trainer, 30)
    after = trainer.evaluate().bits_per_byte
    assert np.mean(found[-5:]) < found[0] - 0.5 and after < before
    # The measurement sees what the training sees.
    trainer.model = trainer.base
    assert trainer.evaluate().bits_per_byte != after


def test_every_parameter_moves(folder):
    trainer = trainer_of(recipe(folder, **PYRAMID), folder)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    losses(trainer, 6)
    still = {name for name, weight in trainer.model.named_parameters() if torch.equal(before[name], weight)}
    assert not still and "summaries.log_variance_scale" in before


def test_it_begins_with_the_base_of_a_vanilla_run_and_reads_the_same_tokens(folder):
    one, other = trainer_of(recipe(folder), folder), trainer_of(recipe(folder, **PYRAMID), folder)
    assert isinstance(one.model, GPT) and isinstance(other.model, PyramidGPT)
    weights = other.base.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in one.base.state_dict().items())
    losses(one, 2)
    losses(other, 2)
    assert one.tokens_digest == other.tokens_digest


def test_a_run_that_goes_on_is_the_run_that_was_never_interrupted(folder, tmp_path):
    config = recipe(folder, **PYRAMID)
    whole = trainer_of(config, folder)
    expected = losses(whole, 6)
    begun = trainer_of(config, folder)
    losses(begun, 3)
    save_state(begun, tmp_path)
    resumed = trainer_of(config, folder)
    restore_state(resumed, find_state(tmp_path))
    assert losses(resumed, 3) == expected[3:]


def test_with_folded_blocks_one_net_makes_gists_and_summaries(folder):
    config = recipe(folder, mega=True, folding=FoldingConfig(block_size=4), **PYRAMID)
    trainer = trainer_of(with_steps(config, 6), folder)
    assert trainer.gistnet is trainer.summaries.gistnet
    assert np.isfinite(losses(trainer, 2)).all()


def test_it_goes_on_from_a_prompt_as_it_reads(folder):
    trainer = trainer_of(recipe(folder, **PYRAMID), folder)
    losses(trainer, 6)
    said = list(generate(trainer.model.eval(), range(30), max_tokens=8))
    with torch.inference_mode():
        ids = torch.tensor([[*range(30), *said[:-1]]])
        logits = trainer.model.unembed(
            trainer.model(trainer.model.embed(ids), torch.arange(ids.shape[1])[None], ids=ids)
        )
    assert said == logits[0, 29:].argmax(dim=-1).tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mega": True}, "folding.block_size and pyramid.block must be equal, got 8 and 4"),
        ({"gistnet": GistNetConfig(heads=2, slots=2)}, "gistnet.slots must be 1 with a pyramid, got 2"),
        ({"gistnet": GistNetConfig(heads=3)}, "must be a multiple of gistnet.heads, got 32 and 3"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message, folder):
    with pytest.raises(ConfigError, match=message):
        recipe(folder, **PYRAMID, **changes)


def test_windows_do_not_go_with_it(folder):
    shape = dataclasses.replace(recipe(folder).model, window_pattern="SL")
    with pytest.raises(ConfigError, match="window_pattern must be L with it, got 'SL'"):
        recipe(folder, **PYRAMID, model=shape)


def test_the_recipe_that_ships_differs_from_a_vanilla_run_by_one_key():
    pyramid = load_recipe(PretrainConfig, "tiny-pyramid")
    full = load_recipe(PretrainConfig, "tiny-pyramid", {"attention": "full"})
    assert pyramid.attention == "pyramid" and dataclasses.replace(pyramid, attention="full") == full
