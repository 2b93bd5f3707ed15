"""Pretraining with attention over a pyramid: one key, the same tokens, the same start, and everything learns."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from pretrain_toys import ROW, recipe, trainer_of, with_steps

from megacontext.attention.pyramid import PyramidConfig
from megacontext.config import load_recipe
from megacontext.errors import CheckpointError, ConfigError
from megacontext.gistnet.gist import GistNetConfig
from megacontext.models.checkpoint import load_checkpoint
from megacontext.models.gpt import GPT
from megacontext.models.pyramid import PyramidGPT
from megacontext.models.scaling import model_size
from megacontext.runtime.generation import generate
from megacontext.runtime.run import RunFolder
from megacontext.train.pretrain.config import PretrainConfig
from megacontext.train.pretrain.folding import FoldingConfig
from megacontext.train.pretrain.loop import Destination, pretrain
from megacontext.train.pretrain.plan import plan
from megacontext.train.pretrain.state import find_state, restore_state, save_state
from megacontext.train.pretrain.world import World
from megakernels.pyramid_attention.cost import pairs_of, whole_sight

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


def test_every_parameter_moves_the_slots_too(folder):
    pyramid = dataclasses.replace(PYRAMID["pyramid"], slots=2)
    trainer = trainer_of(recipe(folder, attention="pyramid", pyramid=pyramid), folder)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    losses(trainer, 6)
    still = {name for name, weight in trainer.model.named_parameters() if torch.equal(before[name], weight)}
    assert not still and {"summaries.log_variance_scale", "summaries.slots.keys"} <= before.keys()


def test_it_begins_with_the_base_of_a_vanilla_run_and_reads_the_same_tokens(folder):
    one, other = trainer_of(recipe(folder), folder), trainer_of(recipe(folder, **PYRAMID), folder)
    assert isinstance(one.model, GPT) and isinstance(other.model, PyramidGPT)
    weights = other.base.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in one.base.state_dict().items())
    losses(one, 2)
    losses(other, 2)
    assert one.tokens_digest == other.tokens_digest


def test_a_window_of_equal_cost_begins_alike_reads_the_same_and_sees_as_many_pairs(folder):
    one = trainer_of(recipe(folder, **PYRAMID), folder)
    other = trainer_of(recipe(folder, **PYRAMID | {"attention": "window"}), folder)
    weights = one.base.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in other.model.state_dict().items())
    losses(one, 2)
    losses(other, 2)
    assert one.tokens_digest == other.tokens_digest
    (window,) = {*other.base.windows}
    pairs = sum(min(place + 1, window + 1) for place in range(ROW))
    assert abs(pairs - pairs_of(whole_sight(one.config.pyramid.rule, ROW))) < ROW
    # What lies further back than the windows of all layers changes nothing; smear adds one.
    ids = torch.randint(300, (1, ROW), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 0] += 1
    positions = torch.arange(ROW)[None]
    with torch.inference_mode():
        first, second = (other.model(other.model.embed(one), positions, ids=one) for one in (ids, changed))
    differs = (first != second).any(dim=-1)[0].nonzero().flatten()
    assert differs.max() <= len(other.base.windows) * window + 1 < ROW - 1


def test_a_plan_counts_what_is_seen_and_who_sees(folder):
    full, pyramid = (recipe(folder, **PYRAMID | {"attention": name}) for name in ("full", "pyramid"))
    window = recipe(folder, **PYRAMID | {"attention": "window"})
    size, shape = model_size(full.model), full.model
    # Of 64 tokens: the last sees 8 one by one (its block ends with it), 2 in fours and 3 in sixteens. 20 are summaries,
    # each made of 4.
    trainer = trainer_of(pyramid, folder)
    net = sum(one.numel() for one in trainer.gistnet.parameters())
    most = int(whole_sight(pyramid.pyramid.rule, ROW).runs.diff(dim=-1).sum(dim=(2, 3)).max())
    assert plan(pyramid, 1).flops_per_token * ROW == pytest.approx(
        6 * (size.matrices * 84 + size.head * ROW + net * 80) + 12 * shape.n_embd * shape.n_layer * most * 84
    )
    assert plan(window, 1).flops_per_token < plan(full, 1).flops_per_token
    assert plan(full, 1).activations_gib < plan(pyramid, 1).activations_gib


def test_what_a_pyramid_saves_grows_with_the_row():
    def of(tokens, attention):
        told = {"attention": attention, "model.sequence_len": tokens, "batch.total_batch_size": 4 * tokens}
        return plan(load_recipe(PretrainConfig, "tiny-pyramid", told), 1).flops_per_token

    shares = [of(tokens, "pyramid") / of(tokens, "full") for tokens in (512, 2048, 8192)]
    assert shares[0] > shares[1] > shares[2] and shares[2] < 0.5


def test_a_pyramid_that_overshoots_is_trained_without_samples_and_says_that_it_is_not_causal(tmp_path):
    pyramid = dataclasses.replace(PYRAMID["pyramid"], overshoot=True)
    config = with_steps(recipe(tmp_path, attention="pyramid", pyramid=pyramid), 2)
    with pytest.warns(UserWarning, match="no loss of this model is a language model's"):
        metrics, run = pretrained(config, tmp_path)
    assert metrics["causal"] is False and "samples" not in run


@pytest.mark.parametrize("attention", ["pyramid", "window", "full"])
def test_a_checkpoint_that_was_not_trained_to_read_in_full_is_refused_by_a_sentence(attention, tmp_path):
    config = with_steps(recipe(tmp_path, **PYRAMID | {"attention": attention}), 2)
    metrics, run = pretrained(config, tmp_path)
    folder = tmp_path / "nanochat" / "base_checkpoints" / "toy"
    assert "causal" not in metrics and len(run["samples"]) == 4
    if attention == "full":
        assert load_checkpoint(folder).step == 2
        return
    with pytest.raises(CheckpointError, match=f"was trained with attention = '{attention}'"):
        load_checkpoint(folder)


def pretrained(config, folder):
    """A run from beginning to end: its metrics, and what its folder says of it."""
    world = World(0, 1, torch.device("cpu"))
    with RunFolder.create(folder / "runs", "toy", config, kind="pretrain", seed=config.seed) as run:
        to = Destination(run=run, nanochat=folder / "nanochat", tag="toy", cache=folder / ".tokens")
        metrics = pretrain(config, world, to)
    return metrics, json.loads((run.path / "run.json").read_text())


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
