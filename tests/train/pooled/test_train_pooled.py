"""Training of pooled gists, end to end at toy size: it learns, it can be repeated, and it is measured as it says."""

import hashlib
import json

import polars as pl
import pytest
import torch
from models.huggingface.hf_toys import save_model

from megacontext.config import to_mapping
from megacontext.errors import CheckpointError, ConfigError
from megacontext.evals.gist_language import LanguageConfig, measure_language, prepare_language
from megacontext.runtime.pooled_gists import load_pooled, open_decoder, pooled_folder
from megacontext.runtime.run import RunFolder
from megacontext.telemetry import read
from megacontext.train.trainers import Order, load_training

SINK = "<|im_start|>"


def trained(recipe, runs, **changes):
    kind, config = load_training("smollm2-pooled", recipe | changes)
    return kind.train(config, Order(runs=runs, name=changes.get("name")))


@pytest.fixture(scope="module")
def models(recipe, tmp_path_factory):
    """Gists of two seeds and a constant prefix."""
    runs = tmp_path_factory.mktemp("runs")
    changes = ({"seed": 0}, {"seed": 1}, {"constant": True})
    return [trained(recipe, runs, **change) for change in changes]


def test_the_gists_that_ship_are_whole_and_say_how_they_were_made():
    folder = pooled_folder("smollm2-pooled")
    described = json.loads((folder / "pooled.json").read_text())
    weights = (folder / "pooled.safetensors").read_bytes()
    assert described["weights_blake2b"] == hashlib.blake2b(weights, digest_size=16).hexdigest()
    _, config = load_training("smollm2-pooled", {})
    assert described["recipe"] == json.loads(json.dumps(to_mapping(config))), "they are what the recipe makes"


def test_both_stages_learn(models):
    for outcome in models[:2]:
        metrics = outcome.metrics
        assert metrics["matching_last"] < metrics["matching_first"]
        rows = read(outcome.run / "telemetry", "train")
        assert set(rows["stage"]) == {"matching", "distill"}
        assert rows.filter(pl.col("stage") == "matching")["attention_error"].is_not_null().all()
        assert rows.filter(pl.col("stage") == "distill")["loss_nats"].is_not_null().all()
    assert "matching_first" not in models[2].metrics and models[2].metrics["distill_ce_first"] > 0


def test_what_is_saved_is_what_was_trained_and_of_one_decoder_only(models, decoder, toy_folder, tmp_path):
    net, description = load_pooled(models[0].model, decoder)
    assert description["kind"] == "pooled" and description["recipe"]["seed"] == 0
    assert any((one != 0).any() for one in net.levels[0].parameters())
    save_model(tmp_path / "other", initializer_range=0.2)
    other = open_decoder(str(tmp_path / "other"), "cpu", "float32", SINK)
    with pytest.raises(CheckpointError, match="read by the decoder that they were trained for"):
        load_pooled(models[0].model, other)
    with pytest.raises(CheckpointError, match="holds none that can be read"):
        load_pooled(tmp_path, decoder)
    for name in ("pooled.json", "pooled.safetensors"):
        (tmp_path / name).write_bytes((models[0].model / name).read_bytes())
    (tmp_path / "pooled.safetensors").write_bytes((models[1].model / "pooled.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="must be whole"):
        load_pooled(tmp_path, decoder)


def test_equal_seeds_train_equal_gists_and_others_others(recipe, models, decoder, tmp_path):
    again, _ = load_pooled(trained(recipe, tmp_path, seed=0).model, decoder)
    first, second = (load_pooled(outcome.model, decoder)[0] for outcome in models[:2])
    for name, one in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], one, atol=1e-6, rtol=1e-5)
    assert any((second.state_dict()[name] != one).any() for name, one in first.state_dict().items())


def language(toy_folder, models, **changes):
    given = {
        "gists": tuple(str(outcome.model) for outcome in models),
        "documents": (str(toy_folder / "c.txt"), str(toy_folder / "d.txt")),
        "base": str(toy_folder / "model"), "sink": SINK, "precision": "float32", "block_size": 8,
        "segment_blocks": 12, "segments": 6, "distant_blocks": 4, "raw_tokens": 8, "scored_tokens": 16,
    }  # fmt: skip
    return LanguageConfig(**(given | changes))


def test_windows_are_scored_by_every_arm_and_differences_are_paired(models, toy_folder, tmp_path):
    config = language(toy_folder, models)
    with RunFolder.create(tmp_path, "language", config, kind="eval-language", seed=0) as run:
        results = measure_language(prepare_language(config), run)
    frame = pl.read_parquet(run.path / "windows.parquet")
    assert results["segments"] == 6 and results["windows"] == frame.height >= 6
    assert (frame["document"] != frame["wrong_document"]).all()
    assert {
        "full",
        "drop",
        "none",
        "mean-cache",
        "mean-embedding",
        "gist-0",
        "wrong-gist-1",
        "constant-0",
    } <= set(frame.columns)
    by_segment = frame.group_by("segment").agg(pl.col("gist-0", "drop", "wrong-gist-0").mean())
    gap = (by_segment["gist-0"] - by_segment["drop"]).to_numpy()
    row = next(row for row in results["compared"] if row["arm"] == "gist-0")
    assert row["minus_drop"]["mean"] == pytest.approx(gap.mean())
    assert row["minus_drop"]["se"] == pytest.approx(gap.std(ddof=1) / 6**0.5)
    content = (by_segment["wrong-gist-0"] - by_segment["gist-0"]).mean()
    assert row["wrong_minus_right"]["mean"] == pytest.approx(content)
    lines = (run.path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == frame.height and json.loads(lines[0])["full"] == pytest.approx(frame["full"][0])


def test_a_window_may_reach_over_segments_of_its_document(decoder, toy_folder, models, tmp_path):
    """Blocks of earlier segments are gists where they stand; behind all tokens it says what the decoder itself says."""
    config = language(toy_folder, models[:1], reach_segments=2, distant_blocks=14, windows=2)
    prepared = prepare_language(config)
    assert all(
        prepared.segments[number - 1].name == prepared.segments[number].name for number in prepared.ends
    )
    with RunFolder.create(tmp_path, "language", config, kind="eval-language", seed=0) as run:
        measure_language(prepared, run)
    frame = pl.read_parquet(run.path / "windows.parquet")
    assert frame["gist-0"].is_finite().all() and frame["start_block"].n_unique() > 1
    for row in frame.iter_rows(named=True):
        number = row["segment"]
        ids = [token for one in prepared.segments[number - 1 : number + 1] for token in one.ids.tolist()]
        first, stop = row["start_block"] * 8, (row["start_block"] + 14) * 8 + 24
        assert first + 14 * 8 >= 12 * 8 and stop <= len(ids) == 24 * 8
        with torch.inference_mode():
            logits = decoder.base.model(torch.tensor([[decoder.sink_id, *ids[first:stop]]])).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(ids[first:stop]), reduction="none"
        )
        assert row["full"] == pytest.approx(losses[-16:].mean().item(), abs=2e-3)


def test_arms_without_gists_score_what_the_decoder_says_itself(decoder, toy_folder, tmp_path):
    """Against one plain pass of the model over sink and tokens, at the places that the arm names."""
    config = language(toy_folder, [])
    prepared = prepare_language(config)
    with RunFolder.create(tmp_path, "language", config, kind="eval-language", seed=0) as run:
        measure_language(prepared, run)
    frame = pl.read_parquet(run.path / "windows.parquet")
    shape = config.shape
    for row in frame.iter_rows(named=True):
        ids = prepared.segments[row["segment"]].ids.tolist()
        first = (row["start_block"] + shape.distant_blocks) * shape.block_size
        for arm, before in (("none", 0), ("drop", shape.distant_blocks), ("full", shape.distant_blocks * 8)):
            tokens = ids[first - before : first + shape.raw_tokens + shape.scored_tokens]
            with torch.inference_mode():
                logits = decoder.base.model(torch.tensor([[decoder.sink_id, *tokens]])).logits[0]
            losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens), reduction="none")
            expected = losses[-shape.scored_tokens :].mean().item()
            assert row[arm] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matching.steps": 0, "distill.steps": 0}, "nor both 0"),
        ({"constant": True, "distill.steps": 0}, "trained in the second stage"),
        ({"segment_blocks": 6}, "must fit a segment"),
        ({"sink": "no such token"}, "one token"),
        ({"segment_blocks": 4000}, "no document is as long"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_anything_is_written(changes, message, recipe, tmp_path):
    with pytest.raises(ConfigError, match=message):
        trained(recipe, tmp_path / "runs", **changes)
    assert not (tmp_path / "runs").exists()


def test_measurements_that_would_mislead_are_refused(models, toy_folder):
    seen = language(toy_folder, models, documents=(str(toy_folder / "a.txt"), str(toy_folder / "c.txt")))
    with pytest.raises(ConfigError, match="held-out documents are not trained on"):
        prepare_language(seen)
    with pytest.raises(ConfigError, match="in two documents at least"):
        prepare_language(language(toy_folder, [], documents=(str(toy_folder / "c.txt"),)))
    with pytest.raises(ConfigError, match="must be that of the gists"):
        prepare_language(language(toy_folder, models, block_size=4))
