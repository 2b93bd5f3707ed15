"""Training of pooled gists, end to end at toy size: it learns, it can be repeated, and it is measured as it says."""

import hashlib
import json
import shutil

import polars as pl
import pytest
import torch
from models.huggingface.hf_toys import save_model
from safetensors.torch import load_file

from megacontext.config import from_mapping
from megacontext.corpus.documents import load_documents
from megacontext.errors import CheckpointError, ConfigError
from megacontext.evals import gist_language
from megacontext.evals.gist_language import LanguageConfig, measure_language, prepare_language
from megacontext.models.block_caches import read_segment
from megacontext.runtime import segment_gists
from megacontext.runtime.pooled_gists import load_pooled, open_decoder, pooled_folder
from megacontext.runtime.run import RunFolder
from megacontext.runtime.segment_gists import SegmentReader
from megacontext.telemetry import read
from megacontext.train.pooled import loop, matching
from megacontext.train.pooled.config import PooledTrainConfig
from megacontext.train.pooled.state import read_state
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


@pytest.mark.parametrize("name", ["smollm2-pooled", "smollm2-pooled-lod2"])
def test_the_gists_that_ship_are_whole_and_say_how_they_were_made(name):
    folder = pooled_folder(name)
    described = json.loads((folder / "pooled.json").read_text())
    weights = (folder / "pooled.safetensors").read_bytes()
    assert described["weights_blake2b"] == hashlib.blake2b(weights, digest_size=16).hexdigest()
    _, config = load_training(name, {})
    assert from_mapping(PooledTrainConfig, described["recipe"], where=str(folder)) == config


def test_the_second_level_that_ships_stands_on_the_first_that_ships():
    below, both = (
        load_file(pooled_folder(name) / "pooled.safetensors")
        for name in ("smollm2-pooled", "smollm2-pooled-lod2")
    )
    assert below.keys() < both.keys() and all(torch.equal(both[name], one) for name, one in below.items())
    assert all(one.isfinite().all() for one in both.values())
    first = json.loads((pooled_folder("smollm2-pooled") / "pooled.json").read_text())
    second = json.loads((pooled_folder("smollm2-pooled-lod2") / "pooled.json").read_text())
    assert second["initial"]["weights_blake2b"] == first["weights_blake2b"]


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


SECOND_LEVEL = {
    "pooled.levels": 2,
    "distill.distant_parents": 1,
    "distill.fewest_blocks": 1,
    "segment_blocks": 20,
}


@pytest.fixture(scope="module")
def levels(recipe, models, tmp_path_factory):
    """Gists of gists on top of those of the first seed."""
    changes = {"initial": str(models[0].model), "segments": 5, "matching.steps": 40, **SECOND_LEVEL}
    return trained(recipe, tmp_path_factory.mktemp("levels"), **changes)


def test_a_second_level_is_trained_and_the_first_stays_bit_for_bit(levels, models, decoder):
    below, _ = load_pooled(models[0].model, decoder)
    net, described = load_pooled(levels.model, decoder)
    assert len(net.levels) == 2 and described["initial"]["recipe"]["seed"] == 0
    for name, one in below.levels[0].state_dict().items():
        assert torch.equal(net.levels[0].state_dict()[name], one)
    for name, one in below.levels[0].state_dict().items():
        moved = net.levels[1].state_dict()[name] != (torch.zeros_like(one) if name == "place" else one)
        assert moved.any(dim=-1).all(), name
    metrics = levels.metrics
    assert metrics["segments"] == 5 and metrics["matching_last"] < metrics["matching_first"]
    assert metrics["parameters"] == sum(one.numel() for one in below.parameters())


FAR = {
    **SECOND_LEVEL,
    "initial": "nowhere",
    "segment_blocks": 12,
    "distill.distant_parents": 3,
    "distill.fewest_parents": 1,
    "distill.reach_segments": 3,
    "distill.reach_tokens": 120,
    "matching.steps": 0,
}


def test_a_second_level_learns_in_windows_over_several_segments(
    recipe, levels, decoder, tmp_path, monkeypatch
):
    """They are the document's, end in the last segment, and begin with nodes at multiples of their size."""
    looked, scored = [], loop.scored_hidden

    def watched(base, sink, shape, starts, rows, gists):
        looked.append((shape, starts.tolist(), rows.tolist(), gists))
        return scored(base, sink, shape, starts, rows, gists)

    monkeypatch.setattr(loop, "scored_hidden", watched)
    changes = {"segments": 1, "distill.steps": 30} | FAR | {"initial": str(levels.model)}
    outcome = trained(recipe, tmp_path, **changes)
    before, after = (load_pooled(model, decoder)[0] for model in (levels.model, outcome.model))
    texts = [one.ids for one in load_documents(recipe["documents"], decoder.encode)]
    assert {shape.distant_parents for shape, *_ in looked} == {1, 2, 3}
    for number, (shape, starts, rows, gists) in enumerate(looked):
        for row, (start, tokens) in enumerate(zip(starts, rows, strict=True)):
            first = start * 8 + shape.distant_tokens
            assert start % 8 == 0 and gists.keys.shape[2] == shape.gists
            assert 2 * 96 <= first <= first + len(tokens) <= 3 * 96, (
                "in the last of three segments of 96 tokens"
            )
            whole = reached(texts, tokens, first)
            if number == 0:  # nothing has been learnt yet
                expected = gists_by_hand(before, decoder, whole, start, shape)
                torch.testing.assert_close(gists.keys[:, row], expected, atol=2e-3, rtol=1e-2)
    for name, one in before.levels[0].state_dict().items():
        assert torch.equal(after.levels[0].state_dict()[name], one)
    moved = after.levels[1].state_dict()
    assert any((moved[name] != one).any() for name, one in before.levels[1].state_dict().items())
    assert outcome.metrics["distill_last"] < outcome.metrics["distill_first"]


def reached(texts, tokens, first):
    """The three segments of a text in which `tokens` stand at `first`."""
    for ids in texts:
        for at in range(first, len(ids)):
            if ids[at : at + len(tokens)].tolist() == tokens and at - first + 288 <= len(ids):
                return ids[at - first : at - first + 288]
    raise AssertionError("tokens of no document, or from elsewhere")


@torch.no_grad()
def gists_by_hand(net, decoder, ids, start, shape):
    """Keys (L, P + G, Hkv, D) of a window's gists, each segment read by itself."""
    blocks = [
        net(read.blocks.keys, read.blocks.values, decoder.base.turn)
        for first in (0, 96, 192)
        for read in [
            read_segment(decoder.base, torch.tensor(ids[first : first + 96]).long(), 8, decoder.sink_id)
        ]
    ]
    keys, values = (torch.cat(one, dim=1) for one in zip(*blocks, strict=True))
    nodes = [slice(start + 8 * node, start + 8 * node + 8) for node in range(shape.distant_parents)]
    far = [net(keys[:, None, node], values[:, None, node], decoder.base.turn, lod=2)[0] for node in nodes]
    near = start + shape.far_blocks
    return torch.cat([*far, keys[:, near : near + shape.distant_blocks]], dim=1)


def test_a_training_that_goes_on_begins_where_the_other_ended(recipe, models, decoder, tmp_path):
    changes = {"initial": str(models[0].model), "matching.steps": 1, "matching.lr": 1e-9, "distill.steps": 0}
    again, _ = load_pooled(trained(recipe, tmp_path, **changes).model, decoder)
    below, _ = load_pooled(models[0].model, decoder)
    for name, one in below.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], one, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("which", ["one level", "constant", "two levels", "far"])
def test_a_plan_says_what_a_training_then_takes(which, recipe, models, levels, tmp_path, monkeypatch):
    changes = {
        "one level": {},
        "constant": {"constant": True},
        "two levels": {
            "initial": str(models[0].model),
            "segments": 3,
            **SECOND_LEVEL,
            "distill.fewest_blocks": 4,
        },
        "far": FAR | {"distill.fewest_blocks": 4, "distill.fewest_parents": 3, "initial": str(levels.model)},
    }[which]
    kind, config = load_training("smollm2-pooled", recipe | changes | {"device": "cuda"})
    told = kind.plan(config).described()
    read, seen, scored = [], [], loop.scored_hidden
    for module in (loop, segment_gists, matching):
        reading = module.read_segment
        monkeypatch.setattr(
            module,
            "read_segment",
            lambda base, ids, *more, own=reading: read.append(len(ids)) or own(base, ids, *more),
        )
    monkeypatch.setattr(
        loop, "scored_hidden",
        lambda base, sink, shape, starts, rows, gists: seen.append(len(starts) * (shape.gists + rows.shape[1]))
        or scored(base, sink, shape, starts, rows, gists),
    )  # fmt: skip
    outcome = trained(recipe, tmp_path, **changes)
    assert told["parameters"] == outcome.metrics["parameters"]
    assert told["segments"] == outcome.metrics["segments"]
    assert told["positions"] == sum(seen)
    whole = [tokens for tokens in read if tokens == config.segment_blocks * config.block_size]
    # A constant prefix begins as the means of one more segment.
    assert told["tokens_read"] == sum(whole) - config.constant * whole[0]
    assert told["steps"] == read_state(outcome.run)[1]["done"]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_after", [7, 14])
@pytest.mark.parametrize("second_level", [False, True])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(
    second_level, stop_after, recipe, models, decoder, tmp_path, monkeypatch
):
    """In the first stage and in the second, which the twelve steps of the first precede."""
    changes = {"save_every": 2, "distill.steps": 5}
    if second_level:
        changes |= {"initial": str(models[0].model), "segments": 3, **SECOND_LEVEL}
    kind, config = load_training("smollm2-pooled", recipe | changes)
    straight = kind.train(config, Order(runs=tmp_path, name="straight"))

    seen = [0]
    for loss in ("_match", "_distill"):
        own = getattr(loop._Training, loss)

        def counted(self, number, own=own):
            seen[0] += 1
            if seen[0] > stop_after:
                raise Stopped
            return own(self, number)

        monkeypatch.setattr(loop._Training, loss, counted)
    with pytest.raises(Stopped):
        kind.train(config, Order(runs=tmp_path, name="stopped"))
    monkeypatch.undo()
    went_on = kind.train(config, Order(runs=tmp_path, resume=tmp_path / "stopped"))
    expected, found = (load_pooled(outcome.model, decoder)[0].state_dict() for outcome in (straight, went_on))
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, atol=1e-6, rtol=1e-5)
    assert went_on.metrics["distill_last"] == pytest.approx(straight.metrics["distill_last"], rel=1e-4)


def test_a_training_goes_on_only_from_a_whole_state_of_its_own_recipe(recipe, models, tmp_path):
    kind, config = load_training("smollm2-pooled", recipe | {"seed": 0})
    with pytest.raises(CheckpointError, match="going on needs a whole state"):
        kind.train(config, Order(runs=tmp_path, resume=tmp_path))
    other = load_training("smollm2-pooled", recipe | {"seed": 5})[1]
    with pytest.raises(ConfigError, match="goes on with its own recipe"):
        kind.train(other, Order(runs=tmp_path, resume=models[0].run))
    damaged = tmp_path / "damaged"
    shutil.copytree(models[0].run, damaged)
    (damaged / "state.safetensors").write_bytes((damaged / "state.safetensors").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="going on needs a whole state"):
        kind.train(config, Order(runs=tmp_path, resume=damaged))


@pytest.mark.parametrize("second_level", [False, True])
def test_gists_of_blocks_that_were_read_alone_are_other_gists(
    second_level, recipe, models, levels, decoder, tmp_path
):
    changes = {"piece_blocks": 1}
    if second_level:
        changes |= {"initial": str(models[0].model), "segments": 5, "matching.steps": 40, **SECOND_LEVEL}
    outcome = trained(recipe, tmp_path, **changes)
    own, _ = load_pooled(outcome.model, decoder)
    whole, _ = load_pooled((levels if second_level else models[0]).model, decoder)
    assert (own.levels[-1].linear != whole.levels[-1].linear).any()
    assert outcome.metrics["matching_last"] < outcome.metrics["matching_first"]


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


def both_levels(toy_folder, levels, **changes):
    """Windows of one node of eight blocks, then two blocks, over two segments of twelve."""
    sizes = {"distant_parents": 1, "distant_blocks": 2, "reach_segments": 2, "windows": 2}
    return language(toy_folder, [levels], **(sizes | changes))


def measured(config, folder, kept=None):
    prepared = prepare_language(config, kept)
    with RunFolder.create(folder, None, config, kind="eval-language", seed=0) as run:
        return measure_language(prepared, run), pl.read_parquet(run.path / "windows.parquet")


def test_windows_of_both_levels_ask_what_the_far_one_gives(levels, toy_folder, tmp_path):
    results, frame = measured(both_levels(toy_folder, levels), tmp_path)
    far = {"near-gist-0", "far-wrong-gist-0", "far-mean-gist-0"}
    assert far | {"full", "drop", "gist-0", "wrong-gist-0", "mean-cache"} <= set(frame.columns)
    assert "mean-embedding" not in frame.columns and results["parents_per_window"] == 1
    assert set(frame["start_block"] % 8) == {0}, "nodes begin where a tree has them"
    (row,) = results["compared"]
    by_segment = frame.group_by("segment").agg(pl.col("gist-0", *far).mean())
    for key, arm in (("minus_near", "near-gist-0"), ("minus_far_mean", "far-mean-gist-0")):
        assert row[key]["mean"] == pytest.approx((by_segment["gist-0"] - by_segment[arm]).mean())
    assert row["far_wrong_minus_right"]["mean"] == pytest.approx(
        (by_segment["far-wrong-gist-0"] - by_segment["gist-0"]).mean()
    )
    for arm in far:
        assert (frame[arm] != frame["gist-0"]).all()


def test_what_blocks_are_read_with_changes_gists_and_nothing_else(models, toy_folder, tmp_path):
    """Pieces of the whole segment are the segment; blocks alone are others, in the same windows."""
    kept = tmp_path / "kept"
    _, whole = measured(language(toy_folder, models[:1]), tmp_path, kept)
    _, same = measured(language(toy_folder, models[:1], piece_blocks=12), tmp_path, kept)
    _, alone = measured(language(toy_folder, models[:1], piece_blocks=1), tmp_path, kept)
    plain = ["start_block", "full", "drop", "none", "mean-embedding"]
    assert whole.select(plain).equals(alone.select(plain))
    for arm in ("gist-0", "wrong-gist-0", "mean-cache"):
        assert whole[arm].to_numpy() == pytest.approx(same[arm].to_numpy(), abs=1e-3)
        assert (whole[arm] != alone[arm]).all()


def test_a_node_of_the_wrong_document_changes_the_far_level_only(levels, toy_folder, tmp_path):
    """Where the wrong gists are the right ones, the arms say the same: nothing else differs."""
    config = both_levels(toy_folder, levels, arms=("drop", "gist", "far-wrong", "wrong"))
    prepared = prepare_language(config)
    (number, *_) = prepared.ends
    windows = gist_language._Windows(prepared, number, gist_language._starts(config))
    with torch.inference_mode():
        found = windows.with_gists("gist-0", prepared.nets["gist-0"], windows)
    assert found["gist-0"] == found["far-wrong-gist-0"] == found["wrong-gist-0"]


def test_one_gist_of_gists_alone_is_a_window(levels, toy_folder, tmp_path):
    results, frame = measured(both_levels(toy_folder, levels, distant_blocks=0), tmp_path)
    assert results["gists_per_window"] == 1 and not [name for name in frame.columns if "far" in name]
    assert frame["gist-0"].is_finite().all()


def test_what_was_kept_of_segments_is_not_read_again(levels, toy_folder, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    _, own = measured(both_levels(toy_folder, levels), tmp_path, kept)
    _, plain = measured(both_levels(toy_folder, levels), tmp_path)
    assert list(kept.glob("*.safetensors")) and not list(kept.glob("*.tmp"))

    def refused(*_):
        raise AssertionError("a kept segment was read")

    reader = SegmentReader.__init__

    def opened(self, *args, **options):
        reader(self, *args, **options)
        monkeypatch.setattr(segment_gists, "read_segment", refused)

    monkeypatch.setattr(SegmentReader, "__init__", opened)
    _, again = measured(both_levels(toy_folder, levels), tmp_path, kept)
    assert again.equals(own) and plain.equals(own), "kept in halves, whether or not there is a folder"
    monkeypatch.undo()
    damaged = next(kept.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="kept gists must be whole"):
        measured(both_levels(toy_folder, levels), tmp_path, kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distant_blocks": 0, "distant_parents": 0}, "1 distant block or parent"),
        ({"arms": ("gist",)}, "add drop"),
        ({"arms": ("drop", "mean-embedding")}, "leave mean-embedding out"),
        ({"piece_blocks": 0}, "piece_blocks must be at least 1"),
        ({"reach_tokens": 16}, "reach_tokens must be beyond the 16 tokens"),
        ({"distant_blocks": 3, "raw_tokens": 32}, "none of which lets them end"),
        ({"reach_segments": 60, "distant_parents": 80}, "within the decoder's window of 512 tokens"),
    ],
)
def test_windows_that_cannot_be_are_refused(changes, message, levels, toy_folder, tmp_path):
    with pytest.raises(ConfigError, match=message):
        measured(both_levels(toy_folder, levels, **changes), tmp_path)


def test_gists_of_one_level_have_no_gists_of_gists(models, toy_folder):
    with pytest.raises(ConfigError, match="need a second level"):
        prepare_language(both_levels(toy_folder, models[0]))
    prefix = language(toy_folder, models[2:], distant_blocks=5)
    with pytest.raises(ConfigError, match="train a longer one"):
        prepare_language(prefix)


def test_gists_of_gists_do_not_hide_what_the_first_level_was_trained_on(levels, toy_folder):
    told = json.loads((levels.model / "pooled.json").read_text())
    told["recipe"]["documents"] = ["other.txt"]
    (levels.model / "pooled.json").write_text(json.dumps(told))
    seen = both_levels(toy_folder, levels, documents=(str(toy_folder / "a.txt"), str(toy_folder / "c.txt")))
    with pytest.raises(ConfigError, match="held-out documents are not trained on"):
        prepare_language(seen)


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
        ({"piece_blocks": 0}, "got piece_blocks = 0"),
        ({"segments": 0}, "got segments = 0"),
        ({"distill.fewest_blocks": 5}, "a window needs a gist"),
        ({"distill.distant_blocks": 0}, "a window needs a gist"),
        ({"distill.distant_parents": 1}, "a second level is trained in windows that have it"),
        ({"pooled.levels": 2}, "a second level is trained in windows that have it"),
        (SECOND_LEVEL, "name those in `initial`"),
        ({"distill.reach_segments": 2}, "windows over several segments are for a second level"),
        (FAR | {"distill.fewest_parents": 4}, "1 <= distill.fewest_parents <= distant_parents"),
        (FAR | {"distill.reach_segments": 2}, "must fit a segment, or distill.reach_segments of them"),
        (
            FAR | {"distill.distant_parents": 1, "distill.scored_tokens": 80},
            "would not end in the last of 3 segments",
        ),
        (FAR | {"distill.reach_tokens": 32}, "must be beyond the 32 tokens of the distant blocks"),
        (FAR | {"distill.reach_segments": 0}, "got distill.reach_segments = 0"),
        (FAR | {"distill.reach_segments": 90}, "no document has so many"),
        ({"initial": "nowhere", "constant": True}, "begins anew"),
        ({"initial": "nowhere"}, "holds none that can be read"),
        ({"initial": "smollm2-pooled"}, "read by the decoder that they were trained for"),
        ({"segment_blocks": 4000}, "no document is as long"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_anything_is_written(changes, message, recipe, tmp_path):
    with pytest.raises((ConfigError, CheckpointError), match=message):
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
