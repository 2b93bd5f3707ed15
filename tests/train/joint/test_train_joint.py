"""The recipe `tiny-joint`, at toy size, end to end: from a saved bundle to a better one, interrupted or not."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from joint_toys import config_of, stage
from toys import K, bundle_config, prose, random_bundle, write_book

from megacontext.cli import main
from megacontext.config import dump_recipe, load_recipe
from megacontext.errors import ConfigError
from megacontext.runtime.bundle import Bundle
from megacontext.telemetry import read
from megacontext.train.joint.config import JointTrainConfig, MeasureConfig
from megacontext.train.joint.loop import load_joint_data
from megacontext.train.joint.measure import ARMS, gist_figures, measured_nats, window_starts
from megacontext.train.joint.trainer import JointTrainer

STAGES = (stage("cloze", steps=1), stage(steps=2, budget=80), stage("counterfactual", steps=1))


@pytest.fixture(scope="module")
def recipe(bundle_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    config = config_of(
        *STAGES,
        model=str(bundle_folder),
        books=(
            str(write_book(folder / "one.txt", 8000)),
            str(write_book(folder / "two.txt", 6000, start=30_000)),
        ),
        held_out=str(write_book(folder / "three.txt", 4000, start=60_000)),
    )
    dump_recipe(config, folder / "toy.toml")
    return folder / "toy.toml"


def train(recipe, runs, *more):
    return main(["train", str(recipe), "--runs", str(runs), "--json", *map(str, more)])


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert train(recipe, runs, "--name", "whole") == 0
    return runs / "whole"


def test_it_gives_a_bundle_that_loads_with_metrics_before_and_after(recipe, trained, bundle_folder):
    model = trained / "model"
    metrics = json.loads((model / "metrics.json").read_text())
    bundle, began = Bundle.load(model), Bundle.load(bundle_folder)
    assert metrics["fingerprint"] == bundle.fingerprint() != began.fingerprint() == metrics["began_from"]
    assert bundle.config == began.config
    assert {f"before_{arm}_nats" for arm in ARMS} | {f"{arm}_nats" for arm in ARMS} <= metrics.keys()
    assert metrics["before_gists_nats"] != metrics["gists_nats"] and metrics["windows"] == 6
    assert load_recipe(JointTrainConfig, model / "recipe.toml") == load_recipe(JointTrainConfig, recipe)
    told = read(trained / "telemetry", "train")
    assert read(model / "telemetry", "train").equals(told) and told["step"].to_list() == [1, 2, 3, 4]
    assert told["lens_correlation"].to_list()[-1] is not None
    assert json.loads((trained / "run.json").read_text())["status"] == "done"


def test_an_interrupt_is_taken_between_two_steps_and_the_run_goes_on_to_the_same_weights(
    recipe, trained, tmp_path, monkeypatch, capsys
):
    step = JointTrainer.train_step

    def interrupted(self):
        figures = step(self)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return figures

    monkeypatch.setattr(JointTrainer, "train_step", interrupted)
    assert train(recipe, tmp_path, "--name", "stopped") == 130
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "stopped" / "model").exists()
    monkeypatch.setattr(JointTrainer, "train_step", step)
    capsys.readouterr()
    assert train(recipe, tmp_path, "--resume", tmp_path / "stopped") == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    whole = json.loads((trained / "model" / "metrics.json").read_text())
    assert metrics["fingerprint"] == whole["fingerprint"]
    assert metrics["before_gists_nats"] == whole["before_gists_nats"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/nowhere"}, "a model folder must hold model.json"),
        ({"books": '["/nowhere.txt"]'}, "nowhere.txt"),
        ({"stages": "[]"}, "needs stages, got none"),
        ({"measure.distant_blocks": 900}, "the held-out book must have"),
    ],
)
def test_what_will_not_do_is_found_before_anything_is_written(recipe, tmp_path, capsys, changes, message):
    given = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    assert train(recipe, tmp_path / "runs", *given) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_a_resume_of_nothing_and_an_out_that_is_a_file_are_refused(recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("a file")
    assert train(recipe, tmp_path / "runs", "--out", tmp_path / "file") == 2
    assert train(recipe, tmp_path / "runs", "--resume", tmp_path) == 2
    said = capsys.readouterr().err
    assert "--out must be a folder" in said and "going on needs a saved state" in said


@pytest.mark.parametrize("name", ["tiny-joint", "tiny-counterfactual"])
def test_the_shipped_recipes_can_be_trained_on_the_shipped_books(name):
    config = load_recipe(JointTrainConfig, name)
    data = load_joint_data(config)
    assert data.bundle.fingerprint() and len(data.source.contexts.books) == len(config.books)


def test_a_lens_that_sees_words_is_not_trained_end_to_end(recipe, tokenizer, tmp_path):
    """Its passages are no memory with an index of words."""
    lens = dataclasses.replace(bundle_config().lens, words=True)
    random_bundle(tokenizer, lens=lens).save(tmp_path / "model")
    config = dataclasses.replace(load_recipe(JointTrainConfig, recipe), model=str(tmp_path / "model"))
    with pytest.raises(ConfigError, match="compares addresses alone"):
        load_joint_data(config)


# What is measured.


def test_arms_differ_in_the_distant_part_alone_and_full_reads_all_of_it(bundle, tokenizer, monkeypatch):
    ids = tokenizer.encode(prose(6000, 5000))
    config = MeasureConfig(windows=4, distant_blocks=3, recent_blocks=2, horizon=5)
    read_rows = {}

    def spy(rows, base, policy):
        read_rows[len(read_rows)] = rows
        return np.arange(len(rows), dtype=float)

    monkeypatch.setattr("megacontext.train.joint.measure.nats_of", spy)
    measured_nats(bundle, ids, config)
    by_arm = dict(zip(ARMS, read_rows.values(), strict=True))
    costs = {arm: {row.context.cost for row in rows} for arm, rows in by_arm.items()}
    assert costs == {
        "full": {5 * K}, "gists": {2 * K + 3}, "mean": {2 * K + 3}, "wrong": {2 * K + 3}, "drop": {2 * K + 3},
        "none": {2 * K},
    }  # fmt: skip
    for number in range(4):
        rows = {arm: by_arm[arm][number] for arm in ARMS}
        assert len({row.ask.horizon.tobytes() for row in rows.values()}) == 1
        assert len({row.tree.history[-2 * K :].tobytes() for row in rows.values()}) == 1
        own, wrong = rows["gists"].tree, rows["wrong"].tree
        assert wrong.history is own.history and not np.array_equal(wrong.levels[0], own.levels[0])
        blocks = own.history.reshape(-1, K)
        mean = bundle.base.transformer["wte"].weight.detach().numpy()[blocks].mean(axis=1)
        np.testing.assert_allclose(rows["mean"].tree.levels[0].detach().numpy(), mean, atol=1e-5)


def test_differences_are_paired_and_their_errors_are_of_the_difference():
    base = np.array([1.0, 5.0, 9.0, 2.0])
    nats = {arm: base + shift for shift, arm in enumerate(ARMS)}
    figures = gist_figures(nats)
    assert figures["gists_minus_drop_nats"] == -3.0 and figures["gists_minus_drop_se"] == 0.0
    assert figures["wrong_minus_gists_nats"] == 2.0 and figures["drop_minus_full_nats"] == 4.0


def test_a_text_that_is_too_short_for_two_windows_is_refused():
    config = MeasureConfig(windows=4, distant_blocks=3, recent_blocks=1, horizon=4)
    assert window_starts(2 * (4 * K + 4), config, K).tolist() == [0, 4 * K + 4]
    with pytest.raises(ConfigError, match="two windows, got 71; give a longer one"):
        window_starts(2 * (4 * K + 4) - 1, config, K)
