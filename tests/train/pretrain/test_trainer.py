"""A pretraining step: what it reads, what it moves, and that interruption and company change nothing."""

import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_toys import ROW, recipe, trainer_of, with_steps

from megacontext.config import dump_recipe
from megacontext.corpus.shards import Corpus, Shard
from megacontext.corpus.token_files import token_file
from megacontext.errors import CheckpointError
from megacontext.evals.trigram import Trigram
from megacontext.models.scaling import parameter_kind
from megacontext.train.pretrain.state import find_state, restore_state, save_state
from megacontext.train.pretrain.trainer import NextTokenLoss

DIALECTS = ("classic", "current")
ROUNDING = 5e-4
"""Gradients that were summed in another order differ in their last bits; Muon computes in bfloat16 and shows it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretraining")


def losses(trainer, steps):
    return [trainer.train_step().loss_nats for _ in range(steps)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_first_loss_is_that_of_knowing_nothing(dialect, folder):
    config = recipe(folder)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dialect=dialect))
    assert losses(trainer_of(config, folder), 1)[0] == pytest.approx(math.log(400), abs=0.02)


@pytest.mark.parametrize("mega", [False, True])
def test_text_is_learnt(mega, folder):
    found = losses(trainer_of(with_steps(recipe(folder, mega=mega), 30), folder), 30)
    assert np.mean(found[-5:]) < found[0] - 0.5


def test_random_tokens_are_not(folder):
    config = with_steps(recipe(folder), 25)
    trainer = trainer_of(config, folder)
    rng = np.random.default_rng(0)
    trainer.reader.read = lambda count, rank=0, world=1: rng.integers(0, 400, size=(count, ROW + 1))
    found = losses(trainer, 25)
    assert min(found) > math.log(400) - 0.05


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("mega", [False, True])
def test_every_parameter_moves(mega, dialect, folder):
    config = recipe(folder, mega=mega)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dialect=dialect))
    trainer = trainer_of(config, folder)
    before = {
        f"{prefix}.{name}": weight.detach().clone()
        for prefix, network in trainer.networks()
        for name, weight in network.named_parameters()
    }
    losses(trainer, 6)
    after = {
        f"{p}.{name}": weight
        for p, network in trainer.networks()
        for name, weight in network.named_parameters()
    }
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert not still and any(name.startswith("gistnet.") for name in before) == mega


def test_vanilla_and_mega_read_the_same_tokens_in_the_same_order(folder):
    seen = {}
    for mega in (False, True):
        trainer = trainer_of(recipe(folder, mega=mega), folder)
        rows, read = [], trainer.read_rows
        trainer.read_rows = lambda micro, rows=rows, read=read: rows.append(read(micro)) or rows[-1]
        losses(trainer, 4)
        seen[mega] = (
            np.concatenate([tokens for tokens, _ in rows]),
            trainer.tokens_digest,
            trainer.reader.place,
        )
        assert all((folded is None) != mega for _, folded in rows)
    assert np.array_equal(seen[False][0], seen[True][0])
    assert seen[False][1:] == seen[True][1:] and len(seen[False][0]) == 4 * 8


def test_vanilla_and_mega_begin_with_the_same_base(folder):
    one, other = (trainer_of(recipe(folder, mega=mega), folder).base.state_dict() for mega in (False, True))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_vanilla_step_knows_nothing_of_gists(folder):
    trainer = trainer_of(recipe(folder), folder)
    assert trainer.gistnet is None and [prefix for prefix, _ in trainer.networks()] == ["base"]


def test_a_gist_is_read_and_gets_its_gradient(folder):
    from megacontext.train.pretrain.folding import fold

    trainer = trainer_of(recipe(folder, mega=True), folder)
    losses(trainer, 2)
    objective = NextTokenLoss(trainer.base, trainer.gistnet)
    rows = fold(*trainer.read_rows(0), 8)
    before = objective(rows)
    before.backward()
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0
        for weight in trainer.gistnet.head.parameters()
    )
    changed = dataclasses.replace(rows, gist_tokens=rows.gist_tokens.flip(0))
    assert not torch.equal(objective(changed), before)


@pytest.mark.parametrize("mega", [False, True])
def test_a_run_that_goes_on_is_the_run_that_was_never_interrupted(mega, folder, tmp_path):
    config = recipe(folder, mega=mega)
    whole = trainer_of(config, folder)
    expected = losses(whole, 6)
    begun = trainer_of(config, folder)
    assert losses(begun, 3) == expected[:3]
    save_state(begun, tmp_path, smooth_loss=1.5)
    resumed = trainer_of(config, folder)
    assert restore_state(resumed, find_state(tmp_path)) == {"smooth_loss": 1.5}
    assert losses(resumed, 3) == expected[3:] and resumed.tokens_digest == whole.tokens_digest
    for (_, one), (_, other) in zip(whole.networks(), resumed.networks(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_state_is_written_whole_and_holds_no_pickle(folder, tmp_path):
    trainer = trainer_of(recipe(folder), folder)
    losses(trainer, 1)
    saved = save_state(trainer, tmp_path)
    assert sorted(path.name for path in saved.iterdir()) == [
        "model.safetensors",
        "optimisers.safetensors",
        "state.json",
    ]
    assert [path.name for path in saved.parent.iterdir()] == ["step_000001"]


@pytest.mark.parametrize(
    "damage", ["cut weights", "cut optimisers", "no state", "newer", "another recipe", "words"]
)
def test_a_state_that_is_damaged_or_foreign_is_refused(damage, folder, tmp_path):
    trainer = trainer_of(recipe(folder), folder)
    losses(trainer, 1)
    saved = save_state(trainer, tmp_path)
    state = saved / "state.json"
    about = json.loads(state.read_text())
    if damage.startswith("cut"):
        file = saved / ("model.safetensors" if "weights" in damage else "optimisers.safetensors")
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "no state":
        state.unlink()
    elif damage == "newer":
        state.write_text(json.dumps(about | {"format": 2}))
    elif damage == "words":
        state.write_text(json.dumps(about | {"place": {"epoch": 0, "page": 3}}))
    else:
        trainer = trainer_of(recipe(folder, seed=1), folder)
    with pytest.raises(
        CheckpointError, match=r"saved state must be whole|format 1|recipe that it began with"
    ):
        restore_state(trainer, saved)


def test_a_run_without_a_state_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"going on needs a saved state of step 5, .* holds none"):
        find_state(tmp_path, 5)


def test_an_optimisers_state_of_other_shapes_is_refused(folder):
    small, config = trainer_of(recipe(folder), folder), recipe(folder)
    wide = trainer_of(dataclasses.replace(config, model=dataclasses.replace(config.model, n_embd=64)), folder)
    losses(small, 1)
    with pytest.raises(CheckpointError, match="an optimiser's state must be of its"):
        wide.optimisers.restore(small.optimisers.state())


def test_several_passes_make_the_step_that_one_pass_makes(folder):
    config = recipe(folder)
    whole = dataclasses.replace(config, batch=dataclasses.replace(config.batch, device_batch_size=8))
    one, other = losses(trainer_of(config, folder), 4), losses(trainer_of(whole, folder), 4)
    assert one[0] == pytest.approx(other[0], abs=1e-5) and one == pytest.approx(other, abs=ROUNDING)


def test_bits_per_byte_fall_while_text_is_learnt_and_are_plain_in_a_mega_run_too(folder):
    for mega in (False, True):
        trainer = trainer_of(with_steps(recipe(folder, mega=mega), 30), folder)
        before = trainer.evaluate()
        losses(trainer, 30)
        after = trainer.evaluate()
        assert after.bits_per_byte < before.bits_per_byte - 0.3
        assert before.nats_per_token == pytest.approx(math.log(400), abs=0.05)


def test_the_trigram_model_is_that_of_the_training_tokens_on_the_validation_text(folder):
    trainer = trainer_of(recipe(folder), folder)
    train = token_file(trainer._corpus.train[0], trainer.tokenizer, folder / ".tokens")
    text = token_file(trainer._corpus.validation, trainer.tokenizer, folder / ".tokens")[: 512 + 1]
    expected = Trigram(np.asarray(train), 400).text_loss(
        text.astype(np.int64), trainer.tokenizer.byte_lengths()
    )
    assert trainer.trigram() == expected.rates()


def test_parameters_are_counted_by_kind(folder):
    trainer = trainer_of(recipe(folder), folder)
    kinds = {parameter_kind(name) for name, _ in trainer.base.named_parameters()}
    assert kinds == {"embeddings", "matrices", "head", "scalars"}


def test_shards_are_read_one_after_the_other(folder):
    trainer = trainer_of(recipe(folder), folder)
    books = trainer._corpus.train[0]
    halves = [
        Shard(name, name, lambda part=part: iter([next(books.documents())[part]]))
        for name, part in (("first", slice(0, 9000)), ("second", slice(9000, None)))
    ]
    trainer._corpus = Corpus(tuple(halves), trainer._corpus.validation)
    trainer.reader = trainer._reader(None)
    losses(trainer, 12)
    assert trainer.reader.place.epoch >= 1 or trainer.reader.place.shard == 1


def test_two_processes_give_the_loss_curve_of_one(folder, tmp_path):
    config = recipe(folder, mega=True)
    dump_recipe(config, tmp_path / "toy.toml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "megacontext", "train", "toy.toml", "--json"]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    curves = {}
    for world in (1, 2):
        running = [
            subprocess.Popen(
                [*command, "--runs", f"runs-{world}"],
                cwd=tmp_path,
                env=environment
                | ({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} if world == 2 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        told = [process.communicate(timeout=120) for process in running]
        assert [process.returncode for process in running] == [0] * world, told
        run = tmp_path / f"runs-{world}" / "pretrain"
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        curves[world] = [line["train/loss"] for line in lines if "train/loss" in line]
        curves[f"bpb {world}"] = [line["val/bpb"] for line in lines if "val/bpb" in line]
        assert json.loads(told[0][0])["metrics"]["steps"] == 6 and not any(out for out, _ in told[1:])
    assert len(curves[1]) == 6 and curves[2] == pytest.approx(curves[1], abs=ROUNDING)
    assert curves["bpb 2"] == pytest.approx(curves["bpb 1"], abs=ROUNDING)
