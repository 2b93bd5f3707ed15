"""The recipe `tiny`, at toy size, end to end; and all that is looked at before anything is trained or written."""

import dataclasses
import json
import math

import pytest
from toys import K, bundle_config, model_config, prose, write_book
from training_toys import TASKED, TASKS, address_config, base_config, lens_config

from megacontext.cli import main
from megacontext.config import dump_recipe, load_recipe
from megacontext.errors import BudgetError, ConfigError
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.run import RunFolder
from megacontext.telemetry import read
from megacontext.train.base import Stage
from megacontext.train.tiny import TinyTrainConfig, load_texts, train_tiny


def toy_recipe(folder, **changes):
    """The shipped recipe with small parts, short schedules and short books."""
    shapes = bundle_config(model=model_config(vocab_size=400))
    small = {
        "block_size": K,
        "books": (
            str(write_book(folder / "one.txt", 8000)),
            str(write_book(folder / "two.txt", 6000, start=30_000)),
        ),
        "held_out": str(write_book(folder / "three.txt", 6000, start=60_000)),
        "vocabulary_sentences": 50,
        "model": shapes.model,
        "gistnet": shapes.gistnet,
        "address": shapes.address,
        "lens": shapes.lens,
        "base": base_config(steps=4),
        "address_training": address_config(steps=2),
        "lens_training": lens_config(steps=2, rounds=1),
    }
    return dataclasses.replace(load_recipe(TinyTrainConfig, "tiny"), **(small | changes))


def train(config, folder, out):
    with RunFolder.create(folder / "runs", None, config, kind="train", seed=config.seed) as run:
        return run.path, train_tiny(config, load_texts(config), out, run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    config = toy_recipe(folder)
    run, metrics = train(config, folder, folder / "model")
    return config, folder / "model", run, metrics


def test_it_gives_a_bundle_that_loads_with_its_metrics_and_its_recipe(trained):
    config, model, run, metrics = trained
    bundle = Bundle.load(model)
    assert bundle.config == config.parts() and bundle.tokenizer.vocab_size == 400
    assert json.loads((model / "metrics.json").read_text()) == metrics
    assert metrics["fingerprint"] == bundle.fingerprint()
    assert load_recipe(TinyTrainConfig, model / "recipe.toml") == config
    about = json.loads((run / "run.json").read_text())
    assert (about["status"], about["model_fingerprint"]) == ("done", metrics["fingerprint"])


def test_its_metrics_are_those_of_the_held_out_book(trained):
    metrics = trained[3]
    # A model that knows nothing needs 8 bits for a byte or a little more; nobody gets below 0.
    assert 0 < metrics["bits_per_byte"] < 9
    assert 0 < metrics["nats_per_token"] < 1.5 * math.log(400)
    assert 0 <= metrics["address_found_among_512"] <= 1 and metrics["address_questions"] == 8 * 24
    assert metrics["parameters"] > 10_000 and metrics["training_s"] > 0 and metrics["seed"] == 0


def test_its_curve_is_in_the_run_and_travels_with_the_weights(trained):
    _, model, run, _ = trained
    told = read(run / "telemetry", "train")
    assert told["stage"].unique(maintain_order=True).to_list() == ["mixed", "address", "lens"]
    assert read(model / "telemetry", "train").equals(told)


def test_training_again_gives_the_same_weights_and_leaves_nothing_of_the_first(trained, tmp_path):
    config, _, _, metrics = trained
    model = tmp_path / "model"
    old = model / "telemetry" / "train" / "part-000099.parquet"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"a curve of another training")
    run, again = train(config, tmp_path, model)
    assert again["fingerprint"] == metrics["fingerprint"]
    assert read(model / "telemetry", "train").equals(read(run / "telemetry", "train"))


def test_the_command_trains_by_a_recipe_file_and_tells_the_metrics(trained, tmp_path, capsys):
    config, _, _, metrics = trained
    dump_recipe(config, tmp_path / "toy.toml")
    arguments = [
        "train",
        str(tmp_path / "toy.toml"),
        "--runs",
        str(tmp_path / "runs"),
        "--name",
        "first",
        "--json",
    ]
    assert main([*arguments, "--set", "lens_training.steps=1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == str(tmp_path / "runs" / "first")
    bundle = Bundle.load(tmp_path / "runs" / "first" / "model")
    assert told["metrics"]["fingerprint"] == bundle.fingerprint() != metrics["fingerprint"]


# Going on from a bundle.


def further(config, model, folder, **changes):
    """The same shapes, trained on from `model` with several tasks."""
    small = {
        "start_from": str(model),
        "base": dataclasses.replace(
            base_config(gists=False),
            stages=(Stage(name="tasked", steps=2, batch=2, contexts=TASKED),),
        ),
        "address_training": address_config(steps=2, keys=0, tasks=TASKS),
        "lens_training": lens_config(steps=2, rounds=1, keys=0, tasks=TASKS, hops=True),
    }
    return train(dataclasses.replace(config, **(small | changes)), folder, folder / "further")


def test_training_on_keeps_vocabulary_and_gists_and_changes_the_rest(trained, tmp_path):
    config, model, _, _ = trained
    further(config, model, tmp_path)
    before, after = Bundle.load(model), Bundle.load(tmp_path / "further")
    assert before.tokenizer.fingerprint == after.tokenizer.fingerprint
    assert before.embedding_fingerprint() == after.embedding_fingerprint()
    same = [
        name
        for name in ("base", "gistnet", "address", "lens")
        if before.fingerprint(name) == after.fingerprint(name)
    ]
    assert same == ["gistnet"]


def test_parts_trained_one_by_one_are_those_trained_at_once(trained, tmp_path):
    """Addresses and LensNet do not depend on the rest of the base model where its embeddings stay."""
    config, model, _, _ = trained
    for name in ("whole", "focus", "all"):
        (tmp_path / name).mkdir()
    _, whole = further(config, model, tmp_path / "whole")
    further(config, model, tmp_path / "focus", train=("address", "lens"))
    _, both = further(config, tmp_path / "focus" / "further", tmp_path / "all", train=("base",))
    assert both["fingerprint"] == whole["fingerprint"]


def test_a_stage_leaves_a_model_behind(trained, tmp_path, monkeypatch):
    config, model, _, _ = trained
    monkeypatch.setattr("megacontext.train.tiny.train_address", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        further(config, model, tmp_path)
    left = Bundle.load(tmp_path / "further")
    assert left.fingerprint("base") != Bundle.load(model).fingerprint("base")


def test_a_bundle_of_other_shapes_is_not_gone_on_from(trained, tmp_path):
    config, model, _, _ = trained
    other = dataclasses.replace(config.lens, width=config.lens.width * 2)
    with pytest.raises(ConfigError, match=r"must ask for its shapes, .* has other ones; copy model"):
        further(config, model, tmp_path, lens=other)
    with pytest.raises(ConfigError, match=r"lens\.words may differ where lens is trained"):
        further(
            config, model, tmp_path, lens=dataclasses.replace(config.lens, words=True), train=("address",)
        )


def test_a_lens_that_is_trained_on_may_begin_to_see_words(trained, tmp_path):
    config, model, _, _ = trained
    seeing = dataclasses.replace(config.lens, words=True)
    further(config, model, tmp_path, lens=seeing, train=("lens",))
    before, after = Bundle.load(model), Bundle.load(tmp_path / "further")
    assert after.config.lens.words and after.lens.from_words is not None
    for part in ("base", "gistnet", "address"):
        assert before.fingerprint(part) == after.fingerprint(part)
    old, new = before.lens.state_dict(), after.lens.state_dict()
    assert set(new) - set(old) == {"from_words.weight", "from_words.bias"}
    # Two steps from where it was, not begun anew.
    assert all((new[name] - old[name]).abs().max() < 0.2 for name in old)


def test_the_shipped_recipes_of_tasks_go_on_from_the_shipped_model_and_from_one_another():
    first, second = (load_recipe(TinyTrainConfig, name) for name in ("tiny-tasks-base", "tiny-tasks"))
    assert Bundle.load(model_folder(first.start_from)).config == first.parts() == second.parts()
    assert second.start_from == "runs/tiny-tasks-base/model"
    assert first.train == ("base",) and second.train == ("base", "address", "lens")
    third = load_recipe(TinyTrainConfig, "tiny-tasks-focus")
    assert third.start_from == "runs/tiny-tasks/model" and third.parts() == second.parts()
    assert third.train == ("address", "lens")
    for config in (first, second):
        assert not config.base.gists and config.held_out not in config.books


def test_a_bundle_that_is_not_there_is_said_in_a_sentence(tmp_path, capsys):
    given = ["--set", f"start_from={tmp_path / 'nowhere'}", "--runs", str(tmp_path / "runs")]
    assert main(["train", "tiny-tasks", *given]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "must hold model.json" in said and not (tmp_path / "runs").exists()


# What is looked at first.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a readable file"),
        (b"", "must hold text"),
        (b"too short. A bit.", r"must have at least \d+ words, .* has 4; give a longer one"),
        (b"word " * 5000, "must have sentences .* has none; give one in prose"),
        (b"\x00" * 5000, "looks binary"),
    ],
)
@pytest.mark.parametrize("which", ["books", "held_out"])
def test_a_book_that_will_not_do_is_found_before_training(tmp_path, capsys, which, content, message):
    config = toy_recipe(tmp_path)
    bad = tmp_path / "bad.txt"
    if content is not None:
        bad.write_bytes(content)
    config = dataclasses.replace(
        config, **{which: str(bad) if which == "held_out" else (*config.books, str(bad))}
    )
    with pytest.raises(ConfigError, match=message):
        load_texts(config)
    dump_recipe(config, tmp_path / "bad.toml")
    assert main(["train", str(tmp_path / "bad.toml"), "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_a_book_must_be_as_long_as_the_longest_stretch(tmp_path):
    config = toy_recipe(tmp_path)
    # Two LOD2 gists of 64 tokens in front of 24 blocks; 32 blocks for addresses.
    assert config.stretch_tokens() == max((24 + 2 * K) * K, 32 * K)
    words = " ".join(prose(6000).split()[: config.stretch_tokens()])
    (tmp_path / "enough.txt").write_text(words)
    load_texts(dataclasses.replace(config, books=(str(tmp_path / "enough.txt"),)))
    (tmp_path / "enough.txt").write_text(words.rsplit(" ", 1)[0])
    with pytest.raises(ConfigError, match=f"at least {config.stretch_tokens()} words"):
        load_texts(dataclasses.replace(config, books=(str(tmp_path / "enough.txt"),)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"books": ()}, "at least one book"),
        ({"books": ("emma",), "held_out": "emma"}, "must not be trained on, 'emma' is in books"),
        ({"model": model_config(vocab_size=264)}, "vocab_size must be at least 265"),
        ({"block_size": 1}, "block_size must be at least 2, got 1"),
        ({"train": ("base",)}, r"from scratch needs all of base, address and lens, got \['base'\]"),
        ({"train": (), "start_from": "tiny"}, r"needs all of base, address and lens, got \[\]"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        toy_recipe(tmp_path, **wrong)


def test_a_lens_budget_below_one_block_is_refused(tmp_path):
    with pytest.raises(BudgetError, match=f"one block of {K} tokens, got {K - 1}"):
        toy_recipe(tmp_path, lens_training=lens_config(budget=K - 1))


def test_the_shipped_recipe_can_be_trained_on_the_shipped_books():
    config = load_recipe(TinyTrainConfig, "tiny")
    texts = load_texts(config)
    assert len(texts.books) == len(config.books) and texts.held_out not in texts.books


def test_an_out_that_is_a_file_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "model").write_text("a file")
    assert main(["train", "tiny", "--out", str(tmp_path / "model"), "--runs", str(tmp_path / "runs")]) == 2
    assert "--out must be a folder" in capsys.readouterr().err and not (tmp_path / "runs").exists()
