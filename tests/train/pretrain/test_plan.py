"""Plans: steps from a horizon, batches of whole passes, parameters and arithmetic as nanochat counts them."""

import dataclasses

import pytest
import torch
from pretrain_toys import recipe

from megacontext.errors import ConfigError
from megacontext.models.gpt import GPT, GPTConfig
from megacontext.models.scaling import model_size, shape_of_depth
from megacontext.train.pretrain.config import BatchConfig, HorizonConfig
from megacontext.train.pretrain.plan import plan
from megacontext.train.pretrain.rates import RatesConfig
from megacontext.train.trainers import load_training


def depth(layers, dialect="current", **changes):
    pattern = "L" if dialect == "classic" else "SSSL"
    shape = {"vocab_size": 32_768, "sequence_len": 2048, "window_pattern": pattern} | changes
    return shape_of_depth(layers, dialect, **shape)


@pytest.mark.parametrize(
    ("layers", "dialect", "width", "heads"),
    [
        (20, "classic", 1280, 10),
        (20, "current", 1280, 10),
        (4, "classic", 256, 2),
        (3, "classic", 192, 2),
        (3, "current", 256, 2),
        (1, "classic", 64, 1),
    ],
)
def test_the_shape_follows_from_the_depth(layers, dialect, width, heads):
    config = depth(layers, dialect)
    assert (config.n_embd, config.n_head, config.n_kv_head, config.n_layer) == (width, heads, heads, layers)


@pytest.mark.parametrize("dialect", ["classic", "2025-12-09", "2026-01-16", "current"])
def test_sizes_are_those_of_the_model_that_is_built(dialect):
    config = GPTConfig(
        dialect=dialect, sequence_len=512, vocab_size=300, n_layer=3, n_head=2, n_kv_head=1, n_embd=64
    )
    size = model_size(config)
    assert size.total == sum(parameter.numel() for parameter in GPT(config).parameters())
    assert size.scaling == size.matrices + size.head


def test_classic_arithmetic_is_six_a_weight_and_twelve_a_visible_key():
    config = depth(20, "classic", vocab_size=65_536)
    size = model_size(config)
    # nanochat's $100 model.
    assert size.total == pytest.approx(560_988_160) and size.flops_per_token == pytest.approx(
        3.4916e9, rel=1e-4
    )


def test_short_windows_cost_less():
    long, short = (model_size(depth(8, window_pattern=pattern)).flops_per_token for pattern in ("L", "SSSL"))
    assert short < long


def test_a_horizon_in_tokens_per_parameter_or_in_flops_gives_steps(tmp_path):
    config = recipe(tmp_path)
    size = model_size(config.model)
    by_ratio = dataclasses.replace(config, horizon=HorizonConfig(target_param_data_ratio=2.0, counted="all"))
    assert plan(by_ratio, 1).steps == round(2 * size.total / 512)
    by_flops = dataclasses.replace(config, horizon=HorizonConfig(target_flops=1e12))
    assert plan(by_flops, 1).flops == pytest.approx(1e12, rel=0.05)
    assert plan(config, 1).steps == 6


def test_the_suggested_batch_is_nanochats_at_depth_12():
    _, config = load_training("one-gpu-d12", {})
    config = dataclasses.replace(
        config,
        horizon=HorizonConfig(target_param_data_ratio=12.0),
        batch=dataclasses.replace(config.batch, total_batch_size=-1),
    )
    assert plan(config, 1).batch_tokens == 2**19


@pytest.mark.parametrize("devices", [3, 16])
def test_a_batch_that_is_no_whole_number_of_passes_is_refused(devices, tmp_path):
    with pytest.raises(ConfigError, match=rf"got 512 tokens and 4 rows x 64 tokens x {devices} = "):
        plan(recipe(tmp_path), devices)


def test_a_batch_is_not_suggested_for_a_horizon_in_steps(tmp_path):
    config = dataclasses.replace(recipe(tmp_path), batch=BatchConfig(device_batch_size=4))
    with pytest.raises(ConfigError, match=r"got one in steps; give batch\.total_batch_size"):
        plan(config, 1)


@pytest.mark.parametrize("name", ["tiny-cpu", "one-gpu-d12", "eight-gpus-d20", "eight-gpus-d32"])
def test_every_tier_has_a_plan_that_fits_its_devices(name):
    kind, config = load_training(name, {})
    planned = kind.plan(config)
    assert planned.devices == config.batch.devices and planned.steps > 0
    assert planned.batch_tokens == planned.micro_steps * planned.devices * (
        config.batch.device_batch_size * config.model.sequence_len
    )
    room = {"tiny-cpu": 4, "one-gpu-d12": 32, "eight-gpus-d20": 80, "eight-gpus-d32": 80}[name]
    assert 0 < planned.memory_gib < room


def test_weights_gradients_and_optimisers_are_what_is_allocated(tmp_path):
    from pretrain_toys import trainer_of

    trainer = trainer_of(recipe(tmp_path), tmp_path)
    trainer.train_step()
    held = [parameter for parameter in trainer.base.parameters()]
    state = [tensor for tensor in trainer.optimisers.state().values() if tensor.ndim]
    allocated = sum(tensor.numel() * 4 for tensor in [*held, *held, *state])
    assert trainer.plan.weights_gib * 2**30 == pytest.approx(allocated, rel=0.01)


def test_rates_rise_stay_and_fall_to_their_final_share():
    rates = RatesConfig(warmup_steps=10, warmdown_share=0.5, final_share=0.1)
    factors = [rates.factor(step, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(factors[10:51]) == {1.0} and factors[100] == pytest.approx(0.1)
    assert factors[50:] == sorted(factors[50:], reverse=True)


def test_momentum_rises_and_falls_with_the_rates_and_weight_decay_along_a_cosine():
    rates = RatesConfig(momentum_steps=40, warmdown_share=0.5)
    momenta = [rates.momentum_at(step, 200) for step in range(201)]
    assert momenta[0] == 0.85 and max(momenta) == 0.97 and momenta[200] == pytest.approx(0.90)
    assert [rates.decay_factor(step, 200) for step in (0, 100, 200)] == pytest.approx([1, 0.5, 0])


def test_every_parameter_is_in_one_group_at_nanochats_rate(tmp_path):
    config = recipe(tmp_path, rates=RatesConfig())
    model = GPT(dataclasses.replace(config.model, n_embd=192, n_head=2, n_kv_head=2))
    groups = config.rates.groups(model, None, 524_288 // 4)
    given = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(given) == sorted(map(id, model.parameters()))
    by_id = {id(parameter): group for group in groups for parameter in group.parameters}
    scale, width = 0.5, (192 / 768) ** -0.5
    assert by_id[id(model.transformer["wte"].weight)].lr == pytest.approx(0.3 * scale * width)
    assert by_id[id(model.lm_head.weight)].lr == pytest.approx(0.008 * scale * width)
    matrix = by_id[id(model.transformer["h"][0].mlp.c_fc.weight)]
    assert matrix.kind == "muon" and matrix.lr == pytest.approx(0.02 * scale)
    assert by_id[id(model.resid_lambdas)].lr == pytest.approx(0.005 * scale)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"matrix_lr": 0.0}, "must be positive"),
        ({"momentum": 1.5}, r"must lie in \[0, 1\]"),
        ({"warmup_steps": -1}, "must not be negative"),
    ],
)
def test_rates_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        RatesConfig(**wrong)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("horizon", {"num_iterations": -1}, "a run needs a horizon, got none"),
        ("batch", {"device_batch_size": 0}, "must be at least 1"),
        ("measure", {"eval_tokens": 0}, "at least 1"),
        ("vocabulary", {"max_chars": 0}, "at least 1"),
        ("seed", -1, "seed must not be negative"),
        ("folding", {"block_size": 24}, "whole blocks of 24"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        load_training("tiny-cpu", {"mega": True, key: value})


def test_meta_models_allocate_nothing():
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in GPT(depth(4)).parameters())
    assert model_size(depth(32)).total > 1e9
