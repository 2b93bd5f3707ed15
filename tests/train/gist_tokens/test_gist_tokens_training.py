"""Continued pretraining with gist tokens: what it trains, what it leaves, and that gists come to say something."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import K, model_config, random_bundle, write_book
from training_toys import SILENT, lens_config, sampler_of

from megacontext.errors import CheckpointError, ConfigError
from megacontext.models.base import NO_TOKEN
from megacontext.models.gist_tokens import read_with_gists
from megacontext.runtime.bundle import Bundle
from megacontext.train.contexts import IGNORED
from megacontext.train.gist_tokens.config import FoldedStage, GistTokensTrainConfig
from megacontext.train.gist_tokens.contexts import FoldedBatch, FoldedContexts, FoldedSampler
from megacontext.train.gist_tokens.loop import train_base_with_gist_tokens
from megacontext.train.gist_tokens.objective import folded_loss, hidden_states, token_gists
from megacontext.train.trainers import Order, load_training

MIXED = FoldedContexts(min_blocks=2, max_blocks=6, max_raw=2, tail=1, keys=3, questions=2, echoes=1, coarse=1)


def stages(steps, contexts=MIXED, batch=4):
    return (FoldedStage(name="mixed", steps=steps, batch=batch, contexts=contexts),)


def config_of(steps, **changes):
    given = {"stages": stages(steps), "lr": 3e-3, "warmup_steps": 2, "lens_training": None}
    return GistTokensTrainConfig(**(given | changes))


@pytest.fixture(scope="module")
def begun(tokenizer):
    return random_bundle(tokenizer, gists="tokens", model=model_config(n_layer=3))


@pytest.fixture(scope="module")
def sampler(tokenizer):
    return sampler_of(tokenizer)


def trained(begun, sampler, config):
    bundle = copy.deepcopy(begun)
    train_base_with_gist_tokens(bundle, sampler, config, None, SILENT)
    return bundle


def changed(one, other):
    """Names of the parts that differ."""
    return {
        name
        for (name, part), (_, old) in zip(one.parts(), other.parts(), strict=True)
        if not all(torch.equal(a, b) for a, b in zip(part.parameters(), old.parameters(), strict=True))
    }


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_every_weight_of_base_and_gist_tokens_moves_and_no_other(begun, sampler, share):
    bundle = trained(begun, sampler, config_of(6, embedding_share=share))
    moved = {"base", "gist_tokens"} | ({"gistnet"} if share else set())
    assert changed(bundle, begun) == moved
    for name, part in bundle.parts():
        if name in moved:
            before = dict(dict(begun.parts())[name].named_parameters())
            for own, weight in part.named_parameters():
                assert not torch.equal(weight, before[own]), f"{name}.{own}"


def test_the_same_seed_trains_the_same_weights_and_another_one_others(begun, sampler):
    one, same, other = (trained(begun, sampler, config_of(2, seed=seed)) for seed in (0, 0, 1))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def random_batch(rng, rows, folded=3, raw=2 * K):
    """Rows of random tokens: gists first, then tokens that nothing foretells."""
    ids = np.concatenate((np.full((rows, folded), NO_TOKEN), rng.integers(0, 500, (rows, raw))), axis=1)
    targets = np.full(ids.shape, IGNORED)
    targets[:, folded:-1] = ids[:, folded + 1 :]
    slots = [(row, column) for row in range(rows) for column in range(folded)]
    return FoldedBatch(
        ids,
        targets,
        np.zeros(ids.shape, dtype=bool),
        np.tile(np.arange(ids.shape[1], dtype=float), (rows, 1)),
        np.array(slots),
        rng.integers(0, 500, (rows * folded, K)),
        np.zeros((0, K, K), dtype=np.int64),
    )


def test_random_tokens_are_not_learnt_below_their_entropy(tokenizer):
    """A target that the model could see, through a gist or a shifted row, would be learnt in a few steps."""
    bundle = random_bundle(tokenizer, gists="tokens", model=model_config(n_layer=3))
    rng, chance = np.random.default_rng(0), torch.Generator().manual_seed(0)
    weights = [*bundle.base.parameters(), *bundle.gist_tokens.parameters()]
    optimiser, losses = torch.optim.AdamW(weights, lr=3e-3), []
    for _ in range(150):
        told = folded_loss(
            bundle, random_batch(rng, 8), text_share=1.0, answer_weight=0.0, embedding=False, chance=chance
        )
        told["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(told["text"].item())
    assert np.log(500) - 0.1 < np.mean(losses[-20:]) < losses[0]


def test_after_training_the_right_gists_foretell_an_echo_and_wrong_ones_do_not(tokenizer):
    bundle = random_bundle(tokenizer, gists="tokens", model=model_config(n_layer=3))
    # Blocks of one of sixteen words all over, said again: a gist that says which one is all there is to learn.
    chance, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def batch():
        made = random_batch(rng, 16, folded=2, raw=K)
        words = rng.integers(100, 116, (16, 2))
        blocks = np.repeat(words.reshape(-1, 1), K, axis=1)
        ids = made.ids.copy()
        ids[:, 2:] = words[:, 1:]
        targets = np.full(ids.shape, IGNORED)
        ids[:, 2] = 99
        targets[:, 2] = words[:, 1]
        return dataclasses.replace(made, ids=ids, targets=targets, blocks=blocks)

    weights = [*bundle.base.parameters(), *bundle.gist_tokens.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=3e-3)
    for _ in range(200):
        told = folded_loss(bundle, batch(), text_share=1.0, answer_weight=0.0, embedding=False, chance=chance)
        told["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    last = batch()
    with torch.inference_mode():
        targets = torch.from_numpy(last.targets[:, 2])
        right = F.cross_entropy(bundle.base.unembed(hidden_states(bundle, last)[:, 2]), targets)
        wrong = F.cross_entropy(
            bundle.base.unembed(
                hidden_states(bundle, dataclasses.replace(last, blocks=np.roll(last.blocks, 2, axis=0)))[:, 2]
            ),
            targets,
        )
    assert right < 0.3 < 2.0 < wrong


def test_a_batch_reads_as_its_rows_do_one_by_one(begun, sampler):
    batch = FoldedSampler(sampler, 0).batch(np.random.default_rng(3), 3, MIXED)
    with torch.inference_mode():
        together, gists = hidden_states(begun, batch), token_gists(begun, batch)
        for row in range(3):
            own = np.flatnonzero(batch.slots[:, 0] == row)
            columns = torch.from_numpy(batch.slots[own, 1])
            length = int(max(np.flatnonzero(batch.ids[row] >= 0).max() + 1, columns.max() + 1))
            alone = read_with_gists(
                begun.base,
                torch.from_numpy(batch.ids[row : row + 1, :length]),
                torch.from_numpy(batch.positions[row : row + 1, :length]),
                type(gists)(gists.keys[:, own], gists.values[:, own]),
                (torch.zeros_like(columns), columns),
            )
            seen = torch.from_numpy(batch.ids[row, :length] >= 0)
            torch.testing.assert_close(together[row, :length][seen], alone[0][seen], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def recipe(tokenizer, tmp_path_factory):
    """A bundle without gist tokens, books, and a recipe of a few steps over them."""
    folder = tmp_path_factory.mktemp("gist-tokens")
    random_bundle(tokenizer).save(folder / "initial")
    table = {
        "trainer": "gist-tokens",
        "initial": str(folder / "initial"),
        "books": [str(write_book(folder / "a.txt"))],
        "held_out": str(write_book(folder / "b.txt", start=40_000)),
        "stages": [
            {
                "name": "mixed", "steps": 3, "batch": 2,
                "contexts": {"min_blocks": 2, "max_blocks": 4, "max_raw": 1, "keys": 3, "questions": 2},
            }
        ],
        "lens": {"width": 16, "heads": 2},
        "lens_training": {
            "histories": 1, "min_tokens": 300, "max_tokens": 400, "keys": 3, "budget": 64, "rounds": 1,
            "steps": 2, "batch": 2,
        },
    }  # fmt: skip
    return folder, table


def written(recipe, name, **changes):
    """The recipe as a file, with some keys changed."""
    folder, table = recipe
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in (table | changes).items()
        if key == "books" or not isinstance(value, dict | list)
    ]
    for key, value in (table | changes).items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *(f"{name} = {json.dumps(one)}" for name, one in value.items())]
    for stage in (table | changes)["stages"]:
        contexts = ", ".join(f"{name} = {one}" for name, one in stage["contexts"].items())
        lines += [
            "[[stages]]",
            f'name = "{stage["name"]}"',
            f"steps = {stage['steps']}",
            f"batch = {stage['batch']}",
            f"contexts = {{ {contexts} }}",
        ]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_recipe_trains_a_bundle_that_sessions_can_open(recipe, tmp_path):
    kind, config = load_training(written(recipe, "whole"), {})
    outcome = kind.train(config, Order(runs=tmp_path / "runs"))
    made, initial = Bundle.load(outcome.model), Bundle.load(recipe[0] / "initial")
    assert made.config.gists == "tokens" and made.fingerprint() == outcome.metrics["fingerprint"]
    assert made.fingerprint("address") == initial.fingerprint("address")
    assert made.fingerprint("base") != initial.fingerprint("base")
    assert {"bits_per_byte", "tokens_read"} <= outcome.metrics.keys()
    again, second = load_training(written(recipe, "again", initial=str(outcome.model)), {})
    going_on = again.train(second, Order(runs=tmp_path / "runs"))
    assert Bundle.load(going_on.model).fingerprint("gist_tokens") != made.fingerprint("gist_tokens")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ()}, "at least one stage; give stages"),
        ({"seed": -1}, "seed must not be negative"),
        (
            {"books": ("emma", "pride-and-prejudice")},
            "the held-out one, 'pride-and-prejudice', not among them",
        ),
        ({"embedding_share": 1.0}, r"embedding_share in \[0, 1\)"),
        ({"lr": 0.0}, "learning rates must be positive"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_sentence(change, message):
    with pytest.raises(ConfigError, match=message):
        config_of(2, **change)


def test_books_and_bundles_that_do_not_do_are_refused_before_anything_is_written(recipe, tmp_path):
    short = recipe[0] / "short.txt"
    short.write_text("Too short. " * 3, encoding="utf-8")
    for change, error, message in (
        ({"books": [str(short)]}, ConfigError, "a book for this recipe must have at least"),
        ({"initial": str(recipe[0] / "none")}, CheckpointError, "a model folder must hold model.json"),
    ):
        kind, config = load_training(written(recipe, "wrong", **change), {})
        with pytest.raises(error, match=message):
            kind.train(config, Order(runs=tmp_path / "runs"))
    kind, config = load_training(written(recipe, "whole"), {})
    with pytest.raises(ConfigError, match="neither resumes nor logs elsewhere"):
        kind.train(config, Order(runs=tmp_path / "runs", resume=tmp_path))
    with pytest.raises(ConfigError, match="--out must be a folder"):
        kind.train(config, Order(runs=tmp_path / "runs", out=short))
    assert not (tmp_path / "runs").exists()


def test_the_shipped_recipe_is_read():
    _, config = load_training("tiny-gist-tokens", {})
    assert isinstance(config, GistTokensTrainConfig) and config.stages


def test_lens_training_is_held_to_the_budget_of_its_blocks(begun):
    config = config_of(1, lens_training=lens_config())
    assert config.bundle(begun.config).gists == "tokens"
