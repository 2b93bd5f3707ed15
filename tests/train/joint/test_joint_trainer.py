"""What a wrong trainer cannot pass."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from joint_toys import ALL, READER, SHAPE, RandomTokens, Topics, book_source, config_of, stage
from toys import K, model_config, random_bundle

from megacontext.errors import CheckpointError, ConfigError
from megacontext.evals.statistics import spearman
from megacontext.focus.context import WorkingContext
from megacontext.runtime.bundle import Bundle
from megacontext.train.joint import trainer as trainer_module
from megacontext.train.joint.build import build, question_addresses, views
from megacontext.train.joint.config import LearnConfig
from megacontext.train.joint.counterfactual import CounterfactualConfig, measure
from megacontext.train.joint.horizon import Row, nats_of
from megacontext.train.joint.passages import PassageSpec
from megacontext.train.joint.state import restore_joint_state, save_joint_state
from megacontext.train.joint.trainer import JointTrainer, phases
from megacontext.train.optimisers import OptimiserConfig
from megacontext.train.pretrain.state import find_state

PARTS = ("base", "gistnet", "address", "lens")
STILL = {"address.weight.bias"}
"""A softmax takes no notice of a number added to all of its inputs: what moves this one is rounding alone."""
SCALARS = {"lens.scalar.bias"}


@pytest.fixture(scope="module")
def source(tokenizer):
    return book_source(tokenizer)


def begun(tokenizer, seed=0):
    """Of two layers, the middle one would be the last: backout would do nothing."""
    return random_bundle(tokenizer, seed, model=model_config(n_layer=3))


def run(config, bundle, source, steps=None):
    trainer = JointTrainer(config, bundle, source)
    told = [trainer.train_step() for _ in range(config.total_steps if steps is None else steps)]
    return trainer, told


def weights(bundle):
    return {
        f"{part}.{name}": weight.detach().clone()
        for part, network in bundle.parts()
        for name, weight in network.named_parameters()
    }


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


# What moves.


def test_every_parameter_of_every_part_moves_and_survives_a_checkpoint(tokenizer, source, tmp_path):
    bundle = begun(tokenizer)
    before = weights(bundle)
    run(config_of(stage(steps=2)), bundle, source)
    after = weights(bundle)
    assert before.keys() - moved(before, after) <= STILL
    bundle.save(tmp_path / "model")
    loaded = weights(Bundle.load(tmp_path / "model"))
    assert all(torch.equal(loaded[name], after[name].half().float()) for name in after)


@pytest.mark.parametrize("frozen", PARTS)
def test_a_frozen_part_does_not_move_and_all_others_do(tokenizer, source, frozen):
    bundle = begun(tokenizer)
    before = weights(bundle)
    run(config_of(stage(steps=2, learn=dataclasses.replace(ALL, **{frozen: 0.0}))), bundle, source)
    still = {name for name in before if name.startswith(frozen + ".")}
    assert before.keys() - moved(before, weights(bundle)) <= still | STILL
    assert not moved(before, weights(bundle)) & still


@pytest.mark.parametrize("kind", ["cloze", "counterfactual"])
def test_stages_of_the_lens_move_all_of_it_and_nothing_else(tokenizer, source, kind):
    bundle = begun(tokenizer)
    before = weights(bundle)
    run(config_of(stage(kind, steps=3)), bundle, source)
    lens = {name for name in before if name.startswith("lens.")}
    assert moved(before, weights(bundle)) <= lens
    assert lens - moved(before, weights(bundle)) <= SCALARS & lens


def test_a_loss_that_is_constant_is_refused(tokenizer, source, monkeypatch):
    monkeypatch.setattr(trainer_module, "foretold", lambda base, packed: torch.ones(packed.targets.shape))
    config = config_of(stage(learn=READER), address_weight=0.0, preference_weight=0.0)
    with pytest.raises(ConfigError, match="must depend on the parts that learn"):
        run(config, begun(tokenizer), source, steps=1)


def test_a_loss_that_is_no_number_is_refused(tokenizer, source):
    bundle = begun(tokenizer)
    with torch.no_grad():
        bundle.base.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match="must be finite, got nan at step 0 of stage 'joint'; lower"):
        run(config_of(), bundle, source, steps=1)


# The same again.


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tokenizer, source):
    one, same, other = (begun(tokenizer) for _ in range(3))
    for bundle, seed in ((one, 0), (same, 0), (other, 1)):
        run(config_of(stage(steps=2), seed=seed), bundle, source)
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


SMALL = {"passages": 2, "contexts": 2, "siblings": 1}
STAGES = (
    stage("cloze", steps=2, **SMALL),
    stage(steps=1, name="short", **SMALL),
    stage(steps=2, name="longer", **SMALL, shape=dataclasses.replace(SHAPE, min_blocks=20, max_blocks=24)),
    stage("counterfactual", steps=2, **SMALL),
)


@pytest.fixture(scope="module")
def whole(tokenizer, source):
    """A run of all kinds of stages that nobody interrupted."""
    bundle = begun(tokenizer)
    run(config_of(*STAGES), bundle, source)
    return bundle


@pytest.mark.parametrize("stop", [1, 2, 4, 5, 6, 7])
def test_a_run_that_goes_on_is_the_run_that_was_never_interrupted(tokenizer, source, whole, tmp_path, stop):
    config = config_of(*STAGES)
    first, _ = run(config, begun(tokenizer), source, steps=stop)
    folder = save_joint_state(first, tmp_path, note=1.5)
    assert find_state(tmp_path) == folder
    second = JointTrainer(config, begun(tokenizer), source)
    assert restore_joint_state(second, folder) == {"note": 1.5}
    assert (second.step, second.positions_read) == (stop, first.positions_read)
    while second.step < config.total_steps:
        second.train_step()
    assert second.bundle.fingerprint() == whole.fingerprint()
    assert moved(weights(whole), weights(second.bundle)) == set()


def test_a_state_of_another_recipe_or_model_is_refused_and_so_is_a_damaged_one(tokenizer, source, tmp_path):
    config = config_of()
    trainer, _ = run(config, begun(tokenizer), source, steps=1)
    folder = save_joint_state(trainer, tmp_path)
    with pytest.raises(CheckpointError, match="the recipe that it began with"):
        restore_joint_state(JointTrainer(config_of(seed=1), begun(tokenizer), source), folder)
    with pytest.raises(CheckpointError, match="the model that it began with"):
        restore_joint_state(JointTrainer(config, begun(tokenizer, seed=1), source), folder)
    weights_file = folder / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="must be whole"):
        restore_joint_state(JointTrainer(config, begun(tokenizer), source), folder)


def test_two_states_are_kept(tokenizer, source, tmp_path):
    trainer = JointTrainer(config_of(stage(steps=4)), begun(tokenizer), source)
    for _ in range(4):
        trainer.train_step()
        save_joint_state(trainer, tmp_path)
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


# Averages, accumulation, arithmetic, phases.


def test_a_phase_ends_with_the_average_of_its_weights(tokenizer, source):
    trajectory = []
    plain = JointTrainer(config_of(stage(steps=3), average=0.0), begun(tokenizer), source)
    trajectory.append(weights(plain.bundle))
    for _ in range(3):
        plain.train_step()
        trajectory.append(weights(plain.bundle))
    averaged, _ = run(config_of(stage(steps=3), average=0.9), begun(tokenizer), source)
    expected = trajectory[0]
    for steps, after in enumerate(trajectory[1:], start=1):
        decay = min(0.9, steps / (steps + 10))
        expected = {name: decay * expected[name] + (1 - decay) * after[name] for name in after}
    for name, weight in weights(averaged.bundle).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_the_mean_of_their_passes(tokenizer, source, monkeypatch):
    """Two passes over the same passages are one pass; two over others are not."""
    once, _ = run(config_of(stage(steps=1)), begun(tokenizer), source)
    twice = JointTrainer(config_of(stage(steps=1, micro_steps=2)), begun(tokenizer), source)
    differing, _ = run(config_of(stage(steps=1, micro_steps=2)), begun(tokenizer), source)
    drawn = np.random.default_rng
    monkeypatch.setattr(trainer_module.np.random, "default_rng", lambda key: drawn((*key[:2], 0)))
    twice.train_step()
    one, two, other = (weights(made.bundle) for made in (once, twice, differing))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=2e-5)
    assert moved(one, other)


def test_bf16_reads_in_bf16_and_keeps_its_weights_in_fp32(tokenizer, source):
    _, exact = run(config_of(stage(steps=1)), begun(tokenizer), source)
    trainer, rough = run(config_of(stage(steps=1), precision="bf16"), begun(tokenizer), source)
    assert all(weight.dtype == torch.float32 for weight in weights(trainer.bundle).values())
    assert rough[0]["lm_loss_nats"] != exact[0]["lm_loss_nats"]
    assert rough[0]["lm_loss_nats"] == pytest.approx(exact[0]["lm_loss_nats"], abs=0.1)


def test_stages_of_one_kind_are_one_phase():
    found = phases(STAGES)
    assert [(one.kind, one.start, one.stop) for one in found] == [
        ("cloze", 0, 2), ("joint", 2, 5), ("counterfactual", 5, 7)
    ]  # fmt: skip
    assert found[1].parts == PARTS and found[0].parts == ("lens",)


# What can be learnt, and what cannot.

FAST = OptimiserConfig(matrix_lr=0.02, other_lr=0.01, warmup_steps=1, decay_share=0.3)
SHORT = PassageSpec(min_blocks=K, max_blocks=K, horizon=6)
READING = {"learn": READER, "contexts": 2, "siblings": 0, "passages": 8, "shape": SHORT}


def learn(source, tokenizer, *stages, seed=0, **changes):
    bundle = begun(tokenizer, seed)
    changes = {"optimiser": FAST, "muon_parts": PARTS, "average": 0.0, "seed": seed} | changes
    return run(config_of(*stages, **changes), bundle, source)


@pytest.mark.slow
def test_random_tokens_are_not_learnt_below_ln_v_and_a_leak_would_be(tokenizer, monkeypatch):
    source = RandomTokens(count=12)
    few = READING | {"passages": 6, "contexts": 1}
    _, told = learn(source, tokenizer, stage(steps=100, budget=3 * K, **few))
    losses = [figures["lm_loss_nats"] for figures in told]
    assert losses[0] > math.log(12) + 1, "it knows nothing at first"
    assert abs(np.mean(losses[-20:]) - math.log(12)) < 0.15, "and learns the ids, and no more"

    def one_too_late(base, packed):
        count = packed.targets.shape[1]
        hidden = base(packed.embeddings, packed.positions, ids=packed.ids, padding=packed.padding)
        logits = base.unembed(hidden[:, -count:])
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), packed.targets, reduction="none")

    monkeypatch.setattr(trainer_module, "foretold", one_too_late)
    _, told = learn(source, tokenizer, stage(steps=50, budget=3 * K, **few))
    assert np.mean([figures["lm_loss_nats"] for figures in told[-10:]]) < math.log(12) - 0.7


def document_gists(trained, source, seed=1234, count=24):
    """Nats of the horizon behind gists alone: of the right document, and of another."""
    bundle, rng = trained.bundle, np.random.default_rng(seed)
    passages = [source.passage(rng, SHORT) for _ in range(count)]
    with torch.no_grad():
        trees = build(bundle, [passage.history for passage in passages])
    cover = WorkingContext.cover(K * K, K).edited_at(expand=[0])
    assert (cover.lod == 1).all() and len(cover) == K

    def nats(shift):
        rows = [
            Row(
                dataclasses.replace(tree, levels=trees[(number + shift) % count].levels),
                cover,
                passage.asks[0],
            )
            for number, (tree, passage) in enumerate(zip(trees, passages, strict=True))
        ]
        return nats_of(rows, bundle.base, "context") / SHORT.horizon

    return nats(0), nats(1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_gists_of_the_right_document_foretell_it_and_wrong_ones_mislead(tokenizer, seed, right_gains):
    source = Topics()
    # Room for the gists of all blocks and for no token beside them.
    trained, _ = learn(source, tokenizer, stage(steps=100, budget=K, **READING), seed=seed)
    right, wrong = document_gists(trained, source)
    apart = wrong - right
    assert apart.mean() > 4 * apart.std() / len(apart) ** 0.5 and apart.mean() > 0.3
    assert right.mean() < math.log(18) - 0.3, "less than a document of any topic costs"
    right_gains[seed] = right.mean()
    if len(right_gains) == 2:
        assert abs(right_gains[0] - right_gains[1]) < 0.35, "two seeds agree"


@pytest.fixture(scope="module")
def right_gains():
    return {}


def weighed_passages(trained, source, shape, count=20):
    """All single edits of fresh passages, measured: views, contexts and rates."""
    bundle = trained.bundle
    found = []
    for number in range(count):
        rng = np.random.default_rng((99, number))
        passage = source.passage(rng, shape)
        with torch.no_grad():
            trees = build(bundle, [passage.history])
            (view,) = views(trees, [passage.asks], question_addresses(bundle, passage.asks))
        context = WorkingContext.cover(len(passage.history), K)
        while len(coarse := np.flatnonzero(context.lod > 1)):
            context = context.edited_at(expand=[int(coarse[0])])
        everything = CounterfactualConfig(edits=99, pairs=0)
        nothing, allocator = np.zeros(len(context)), trained.config.allocator
        found.append(
            measure(view, context, nothing, bundle.base, "context", 6 * K, allocator, everything, rng)
        )
    return found


def ranked(lens, found):
    """Of the measured edits: how many score below the best one, and how scores and rates agree."""
    above, agreed = [], []
    for one in found:
        score, known = one.view.scores(lens)(one.context), np.flatnonzero(~np.isnan(one.rate))
        oracle = known[one.rate[known].argmax()]
        above.append((score[oracle] > score[np.setdiff1d(known, oracle)]).mean())
        agreed.append(spearman(score[known], one.rate[known]))
    return np.mean(above), np.mean(agreed)


@pytest.mark.slow
def test_the_lens_ranks_the_oracles_edit_above_random_ones(tokenizer):
    source = Topics(among=True)
    shape = PassageSpec(min_blocks=K, max_blocks=2 * K - 1, horizon=6)
    raw = READING | {"shape": shape, "contexts": 1}
    reading = stage(steps=150, budget=(2 * K + 1) * K, **raw)
    config = CounterfactualConfig(edits=12, pairs=0, contexts=2)
    weighing = stage("counterfactual", steps=60, passages=6, budget=6 * K, shape=shape)
    trained, _ = learn(source, tokenizer, reading, weighing, counterfactual=config)
    found = weighed_passages(trained, source, shape)
    above, agreed = ranked(trained.bundle.lens, found)
    above_before, _ = ranked(begun(tokenizer).lens, found)
    assert above > 0.9 > 0.75 > above_before
    # Of the other blocks none is worth anything, so that their order is noise.
    assert agreed > 0.1


# What a recipe may ask for.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": ()}, "needs stages, got none"),
        ({"held_out": "emma"}, "must not be one of them"),
        ({"average": 1.0}, r"average must lie in \[0, 1\)"),
        ({"muon_parts": ("head",)}, "muon_parts names parts, .* got head"),
        ({"preference_price": -0.1}, "must not be negative"),
        ({"preference_weight": 0.0}, "LensNet learns from siblings, stage 'joint' makes 2 at .* of 0.0"),
        ({"address_weight": 0.0}, "addresses learn from facts"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config_of(), **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"learn": LearnConfig(lens=0.0)}, "freezes every part"),
        ({"kind": "cloze"}, "trains LensNet alone"),
        ({"shape": PassageSpec(min_blocks=1, max_blocks=4), "siblings": -1}, "siblings of at least 0"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(stage(), **wrong)
