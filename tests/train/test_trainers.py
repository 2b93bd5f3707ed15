"""Each trainer moves every parameter that is its, nothing else, and twice the same for the same seed."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import VOCABULARY, K, ids_of, model_config, random_bundle
from training_toys import MIXED, SILENT, TASKS, address_config, base_config, lens_config, sampler_of

from megacontext.errors import ConfigError
from megacontext.focus import WorkingContext
from megacontext.gistnet.address import AddressNet
from megacontext.models.gpt import GPT
from megacontext.runtime.bundle import Bundle
from megacontext.scoring.lens import collate
from megacontext.tasks.asked import AskedHistory
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.facts import FactsConfig
from megacontext.tasks.mixture import TaskShare
from megacontext.tasks.mqar import Mqar
from megacontext.tasks.variables import Variables
from megacontext.telemetry import TelemetryWriter, read
from megacontext.train.address import AddressSampler, AddressTrainConfig, statement_shares, train_address
from megacontext.train.base import MixedContextLoss, StartConfig, start_for_retrieval, train_base
from megacontext.train.contexts import ContextSampler
from megacontext.train.lens import LensTrainConfig, build_cases, gather, lens_loss, train_lens
from megacontext.train.optimisers import OptimiserConfig, Optimisers


@pytest.fixture(scope="module")
def sampler(tokenizer):
    return sampler_of(tokenizer)


@pytest.fixture(scope="module")
def begun(tokenizer):
    """Networks as training finds them. Of two layers, the middle one would be the last: backout would do nothing."""
    bundle = random_bundle(tokenizer, model=model_config(n_layer=3))
    start_for_retrieval(bundle.base, torch.Generator().manual_seed(0), StartConfig())
    bundle.gistnet.head.weight.data.zero_()
    return bundle


def train_all(bundle, sampler, seed=0, telemetry=SILENT):
    train_base(bundle, sampler, base_config(), seed=seed, telemetry=telemetry)
    train_address(bundle, sampler, address_config(), seed=seed, telemetry=telemetry)
    train_lens(bundle, sampler, lens_config(), seed=seed, telemetry=telemetry)


@pytest.fixture(scope="module")
def trained(begun, sampler, tmp_path_factory):
    """The same networks after a few steps of all three trainers, and what they told."""
    bundle = copy.deepcopy(begun)
    folder = tmp_path_factory.mktemp("telemetry")
    with TelemetryWriter(folder) as telemetry:
        train_all(bundle, sampler, telemetry=telemetry)
    return bundle, read(folder, "train")


PARTS = ("base", "gistnet", "address", "lens")
STILL = {"address.weight.bias"}
"""A softmax takes no notice of a number added to all of its inputs: what moves this one is rounding alone."""


@pytest.mark.parametrize("part", PARTS)
def test_every_parameter_moves_and_survives_a_checkpoint(begun, trained, tmp_path, part):
    before = dict(dict(begun.parts())[part].named_parameters())
    after = dict(trained[0].parts())[part].state_dict()
    assert before.keys() == after.keys(), "all that is kept is learnt"
    assert not [name for name in before if torch.equal(before[name], after[name])]
    copy.deepcopy(trained[0]).save(tmp_path / "model")
    loaded = dict(Bundle.load(tmp_path / "model").parts())[part].state_dict()
    for name in after:
        assert torch.equal(loaded[name], after[name].half().float()), name


@pytest.mark.parametrize("part", PARTS)
def test_the_loss_reaches_every_parameter(trained, sampler, part):
    bundle = copy.deepcopy(trained[0])
    losses = {"address": address_loss_of, "lens": lens_loss_of}
    losses.get(part, lambda *given: loss_of(*given)["loss"])(bundle, sampler).backward()
    reached = {
        f"{part}.{name}": parameter.grad is not None and bool(parameter.grad.abs().max() > 1e-6)
        for name, parameter in dict(bundle.parts())[part].named_parameters()
    }
    assert {name for name in reached if not reached[name]} <= STILL


def loss_of(bundle, sampler):
    batch = sampler.batch(np.random.default_rng(0), 4, MIXED)
    return MixedContextLoss(bundle, base_config())(batch, torch.Generator().manual_seed(0))


def address_loss_of(bundle, sampler):
    made = AddressSampler(sampler, address_config(), left_tokens=4, longest=64)
    batch = made.batch(np.random.default_rng(0))
    questions = bundle.address(torch.from_numpy(batch.questions), AddressNet.QUESTION)
    blocks = bundle.address(torch.from_numpy(batch.blocks), AddressNet.BLOCK)
    return F.cross_entropy(questions @ blocks.T / made.config.temperature, torch.from_numpy(batch.answers))


def lens_loss_of(bundle, sampler):
    rng, config = np.random.default_rng(0), lens_config()
    examples = [
        example
        for case in build_cases(bundle, sampler, config, rng)
        for example in gather(case, bundle, config, rng, noise=0.5)
    ]
    given = collate([example.features() for example in examples])
    labels = torch.zeros(given.present.shape)
    for row, example in zip(labels, examples, strict=True):
        row[: len(example.context)] = example.labels()
    return lens_loss(bundle.lens(given), labels, given.present, config.miss_weight)


def test_each_trainer_leaves_the_parts_of_the_others_alone(begun, sampler):
    trainers = {
        ("base", "gistnet"): lambda bundle: train_base(
            bundle, sampler, base_config(2), seed=0, telemetry=SILENT
        ),
        ("address",): lambda bundle: train_address(
            bundle, sampler, address_config(2), seed=0, telemetry=SILENT
        ),
        ("lens",): lambda bundle: train_lens(
            bundle, sampler, lens_config(1, rounds=1), seed=0, telemetry=SILENT
        ),
    }
    for own, train in trainers.items():
        bundle = copy.deepcopy(begun)
        train(bundle)
        changed = tuple(name for name in PARTS if bundle.fingerprint(name) != begun.fingerprint(name))
        assert changed == own


def test_the_same_seed_trains_the_same_weights_and_another_others(begun, trained, sampler):
    again, other = copy.deepcopy(begun), copy.deepcopy(begun)
    train_all(again, sampler)
    assert again.fingerprint() == trained[0].fingerprint()
    train_base(other, sampler, base_config(), seed=1, telemetry=SILENT)
    assert other.fingerprint("base") != trained[0].fingerprint("base")


def test_training_tells_what_it_does(trained):
    told = trained[1]
    assert told["stage"].unique(maintain_order=True).to_list() == ["mixed", "address", "lens"]
    assert told.filter(stage="mixed")["loss_nats"].item() == pytest.approx(
        told.filter(stage="mixed")["lm_loss_nats"].item()
        + 2 * told.filter(stage="mixed")["answer_loss_nats"].item()
    )
    assert told["loss_nats"].is_finite().all() and (told["loss_nats"] > 0).all()
    for column in ("answer_accuracy", "address_accuracy", "lens_accuracy"):
        assert told[column].drop_nulls().is_between(0, 1).all() and told[column].count() >= 1


# Base and GistNet.


def test_no_loss_is_a_constant(begun, trained, sampler):
    before, after = loss_of(begun, sampler), loss_of(trained[0], sampler)
    for name in ("loss", "text", "answer"):
        assert before[name].item() != after[name].item()
        assert math.isfinite(before[name].item())
    for other in (address_loss_of, lens_loss_of):
        assert other(begun, sampler).item() != other(trained[0], sampler).item()


def test_training_lowers_the_loss(begun, sampler):
    bundle = copy.deepcopy(begun)
    train_base(bundle, sampler, base_config(steps=30), seed=0, telemetry=SILENT)
    assert loss_of(bundle, sampler)["loss"] < loss_of(begun, sampler)["loss"] - 2


def test_a_gist_in_training_is_the_gist_that_a_memory_would_hold(begun, sampler, encoder):
    """Train-time and deployed code agree: the hidden states of a batch are those of a reading with its gists."""
    batch = sampler.batch(np.random.default_rng(3), 3, MIXED)
    bundle = begun
    with torch.inference_mode():
        hidden = MixedContextLoss(bundle, base_config()).hidden(batch)
        ids = torch.from_numpy(batch.ids)
        embeddings = bundle.base.embed(ids.clamp_min(0)) * (ids >= 0)[..., None]
        for (row, column), tokens in zip(batch.gist_slots, batch.gist_tokens, strict=True):
            embeddings[row, column] = bundle.gistnet(bundle.base.embed(torch.from_numpy(tokens))[None], 1)[0]
        for (row, column), tokens in zip(batch.coarse_slots, batch.coarse_tokens, strict=True):
            children = bundle.gistnet(bundle.base.embed(torch.from_numpy(tokens)), 1)
            embeddings[row, column] = bundle.gistnet(children[None], 2)[0]
        expected = bundle.base(embeddings, torch.from_numpy(batch.positions), ids=ids)
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=1e-4)


class RandomTokens(ContextSampler):
    """Histories without any order in them: uniform tokens of a small alphabet, new ones each time."""

    ALPHABET = 16

    def asked(self, rng, num_tokens, task, before=0):
        ids = rng.integers(self.ALPHABET, size=before + num_tokens + 20).astype(np.int32)
        return AskedHistory(ids[before:], ()), ids[:before]


def text_losses(bundle, sampler, steps, spoil=None):
    """Text loss of every step of a training on `sampler`, whose batches `spoil` may change."""
    # Nobody is asked anything here; with a weight, the end of the line would be expected everywhere.
    objective = MixedContextLoss(bundle, base_config(text_share=1.0, answer_weight=0.0))
    config = OptimiserConfig()
    optimisers = Optimisers(config.groups((bundle.base, bundle.gistnet)))
    rng, generator, losses = np.random.default_rng(0), torch.Generator().manual_seed(0), []
    for step in range(steps):
        batch = sampler.batch(rng, 8, MIXED)
        if spoil is not None:
            spoil(batch)
        loss = objective(batch, generator)
        loss["loss"].backward()
        optimisers.step(config.factor(step, steps))
        losses.append(loss["text"].item())
    return losses


def test_random_tokens_cannot_be_learnt_below_the_logarithm_of_their_number(begun, tokenizer):
    sampler = sampler_of(tokenizer, RandomTokens)
    floor = math.log(RandomTokens.ALPHABET)
    honest = np.mean(text_losses(copy.deepcopy(begun), sampler, steps=100)[-20:])
    assert floor - 0.02 < honest < floor + 0.1, (
        "all that can be learnt is how many there are, and it was learnt"
    )


def test_a_target_that_the_position_has_seen_would_be_noticed(begun, tokenizer):
    """The same training with targets off by one falls far below: the test above can fail."""

    def own_token(batch):
        raw = (batch.ids >= 0) & (batch.targets >= 0)
        batch.targets[raw] = batch.ids[raw]

    sampler = sampler_of(tokenizer, RandomTokens)
    spoilt = np.mean(text_losses(copy.deepcopy(begun), sampler, steps=100, spoil=own_token)[-20:])
    assert spoilt < math.log(RandomTokens.ALPHABET) - 0.5


def test_the_start_is_the_same_for_the_same_generator_and_reaches_every_dialect(tokenizer):
    for dialect, kv_heads in (("classic", 2), ("current", 1)):
        one, same = (GPT(model_config(dialect=dialect, n_kv_head=kv_heads)) for _ in range(2))
        for model in (one, same):
            start_for_retrieval(model, torch.Generator().manual_seed(0), StartConfig())
        for (name, weight), other in zip(one.state_dict().items(), same.state_dict().values(), strict=True):
            assert torch.isfinite(weight).all() and torch.equal(weight, other), name


# Addresses.


@pytest.fixture(scope="module")
def address_batch(sampler):
    made = AddressSampler(sampler, address_config(), left_tokens=4, longest=64)
    return made.batch(np.random.default_rng(0)), made


def test_the_answers_of_an_address_question_are_the_blocks_of_its_statements(sampler):
    planted, _ = sampler.asked(np.random.default_rng(0), 400, Facts(facts=FactsConfig(keys=10)))
    for blocks in (len(planted.ids) // K, 20):
        for question, share in zip(planted.questions, statement_shares(planted, blocks, K), strict=True):
            expected = {
                place // K
                for statement in (*question.path[0].found, *question.path[0].alike)
                for place in range(statement.start, statement.stop)
                if place // K < blocks
            }
            assert set(np.flatnonzero(share).tolist()) == expected
            assert share.sum() == (pytest.approx(1) if expected else 0)


def test_a_batch_of_address_questions_is_consistent(address_batch, tokenizer):
    batch, made = address_batch
    blocks, config = batch.blocks[:, 4:], made.config
    assert batch.blocks.shape == (config.histories * config.blocks, 4 + K)
    np.testing.assert_allclose(batch.answers.sum(axis=1), 1, atol=1e-6)
    assert (batch.blocks[[0, config.blocks], :4] == -1).all(), "nothing stands before a history"
    inside = np.arange(1, config.blocks)
    assert np.array_equal(batch.blocks[inside, :4], blocks[inside - 1, -4:])
    for question, answers in zip(
        batch.questions[-config.spans :], batch.answers[-config.spans :], strict=True
    ):
        span = question[question >= 0]
        (block,) = np.flatnonzero(answers)
        assert 1 <= len(span) <= 8 and bytes(span.astype("<i8")) in bytes(blocks[block].astype("<i8"))
    asked = tokenizer.decode(batch.questions[0][batch.questions[0] >= 0])
    assert asked.startswith("\nQuestion:") and asked.endswith("\nAnswer:")


def test_a_long_question_keeps_its_end_as_the_encoder_keeps_it(sampler):
    made = AddressSampler(sampler, address_config(), left_tokens=4, longest=5)
    rows = made.batch(np.random.default_rng(0)).questions
    assert rows.shape[1] == 5
    end = sampler.tokenizer.encode("\nQuestion: What is it?\nAnswer:")[-5:]
    assert np.array_equal(rows[0][-2:], end[-2:])


def test_planted_questions_weigh_one_and_cloze_questions_their_share(address_batch):
    batch, made = address_batch
    spans = made.config.spans
    assert batch.weights[:-spans].sum() == pytest.approx(1)
    assert batch.weights[-spans:].sum() == pytest.approx(made.config.span_weight)


def test_a_block_smaller_than_a_span_still_gives_one(tokenizer):
    made = AddressSampler(sampler_of(tokenizer), address_config(), left_tokens=4, longest=64)
    for seed in range(20):
        assert 1 <= len(made._span(np.random.default_rng(seed), ids_of(2))) <= 2


def test_a_book_too_short_for_address_training_is_refused(tokenizer):
    short = ContextSampler([ids_of(32 * K - 1)], tokenizer, K)
    with pytest.raises(
        ConfigError, match=r"stretches of 256 tokens, a book has only 255; give longer books or lower"
    ):
        AddressSampler(short, address_config(), left_tokens=4, longest=64)


def test_address_training_lowers_its_loss(begun, sampler):
    bundle = copy.deepcopy(begun)
    train_address(bundle, sampler, address_config(steps=40), seed=0, telemetry=SILENT)
    assert address_loss_of(bundle, sampler) < address_loss_of(begun, sampler) - 0.3


# LensNet.


def test_lens_loss_is_lower_for_right_than_for_wrong_logits():
    labels = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0]])
    present = torch.tensor([[True] * 4, [True, True, True, False]])
    right = (labels * 2 - 1) * 4
    losses = [lens_loss(factor * right, labels, present, 8.0).item() for factor in (1, 0.5, 0, -0.5, -1)]
    assert losses == sorted(losses) and len(set(losses)) == 5
    assert losses[0] < 0.5 < losses[-1]


def test_lens_loss_takes_no_notice_of_padding():
    labels, present = torch.tensor([[0.0, 1, 0]]), torch.tensor([[True, True, False]])
    logits = torch.tensor([[1.0, 2, 3]])
    other = torch.tensor([[1.0, 2, -50]])
    assert lens_loss(logits, labels, present, 8.0) == lens_loss(other, labels, present, 8.0)


def test_a_missed_entry_costs_more_than_a_needless_one():
    labels, present = torch.tensor([[1.0, 0]]), torch.ones(1, 2, dtype=torch.bool)
    missed, needless = torch.tensor([[-3.0, -3]]), torch.tensor([[3.0, 3]])
    assert lens_loss(missed, labels, present, 8.0) > lens_loss(needless, labels, present, 8.0)


def test_lens_examples_are_labelled_by_the_statement_that_counts(begun, sampler):
    config = lens_config()
    cases = build_cases(begun, sampler, config, np.random.default_rng(0))
    assert len(cases) > config.keys
    for case in cases:
        needed = set(np.flatnonzero(case.truth > 0).tolist())
        assert needed and max(needed) - min(needed) == len(needed) - 1, "one statement: blocks in a row"
        memory, gaze = case.memory, case.gaze
        raw = WorkingContext.raw(memory.num_tokens, K)
        matches = gaze.matches.values(raw, tail=0.0)[: memory.num_blocks]
        np.testing.assert_allclose(matches, memory.addresses() @ gaze.address, atol=1e-6)
        for noise in (0.5, None):
            for example in gather(case, begun, config, np.random.default_rng(1), noise):
                context = example.context
                assert context.cost <= config.budget
                expected = [
                    bool(needed & set(range(int(start) // K, int(stop) // K)))
                    for start, stop in zip(context.start, context.stop, strict=True)
                ]
                assert example.labels().tolist() == expected and sum(expected) >= 1
                assert len(example.features().kind) == len(context)


def test_lens_training_lowers_its_loss(begun, sampler):
    bundle = copy.deepcopy(begun)
    train_lens(bundle, sampler, lens_config(steps=40, rounds=1, batch=8), seed=0, telemetry=SILENT)
    assert lens_loss_of(bundle, sampler) < lens_loss_of(begun, sampler) - 4


# Schedules.


def test_the_rate_rises_stays_and_falls_to_nothing():
    config = OptimiserConfig(warmup_steps=10, decay_share=0.4)
    factors = [config.factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(factors[10:60]) == {1.0}
    assert factors[60:] == sorted(factors[60:], reverse=True) and 0 < factors[99] < 0.05
    assert OptimiserConfig(warmup_steps=0, decay_share=0.0).factor(99, 100) == 1.0
    assert all(0 < config.factor(step, 3) <= 1 for step in range(3))


def test_every_parameter_has_one_optimiser_and_muon_gets_matrices_inside_layers_only(begun):
    for networks in ((begun.base, begun.gistnet), (begun.address,), (begun.lens,)):
        made = Optimisers(OptimiserConfig().groups(networks))
        given = [id(p) for one in made._all for group in one.param_groups for p in group["params"]]
        assert sorted(given) == sorted(id(p) for network in networks for p in network.parameters())
        for parameter in made._all[1].param_groups[0]["params"]:
            assert parameter.ndim == 2 and VOCABULARY not in parameter.shape


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (OptimiserConfig, {"matrix_lr": 0.0}, "must be positive"),
        (OptimiserConfig, {"decay_share": 1.5}, r"lie in \[0, 1\]"),
        (AddressTrainConfig, {"blocks": 0}, "at least 1"),
        (AddressTrainConfig, {"temperature": 0.0}, "positive temperature"),
        (LensTrainConfig, {"rounds": 0}, "at least 1"),
        (LensTrainConfig, {"min_tokens": 9, "max_tokens": 8}, "min_tokens <= max_tokens, got 9 and 8"),
        (LensTrainConfig, {"miss_weight": 0.0}, "miss_weight must be positive, got 0.0"),
        (base_config, {"text_share": 0.0}, r"text_share must lie in \(0, 1\], got 0.0"),
    ],
)
def test_a_wrong_number_is_named(make, wrong, message):
    with pytest.raises(ConfigError, match=message):
        make(**wrong)


def test_a_stage_without_steps_is_refused():
    stage = base_config().stages[0]
    with pytest.raises(ConfigError, match="stage 'raw' needs steps and batch of at least 1, got 0 and 4"):
        dataclasses.replace(stage, steps=0)


# Several tasks, and looks behind evidence.


@pytest.fixture(scope="module")
def tasked_cases(begun, sampler):
    config = lens_config(keys=0, tasks=TASKS, hops=True, histories=8)
    return build_cases(begun, sampler, config, np.random.default_rng(0)), config


def test_looks_of_a_chain_are_cases_each_with_what_was_read_before(tasked_cases, begun, sampler):
    """Rebuilt from the same draws: every look of every question, and one wrong turn."""
    cases, config = tasked_cases
    rng, left = np.random.default_rng(0), iter(cases)
    for _ in range(config.histories):
        length = np.exp(rng.uniform(np.log(config.min_tokens), np.log(config.max_tokens)))
        planted, _ = sampler.asked(rng, int(length), config.task(rng))
        finished = len(planted.ids) // K

        def blocks(spans, finished=finished):
            places = {place // K for span in spans for place in range(span.start, span.stop)}
            return {block for block in places if block < finished}

        for question in planted.questions:
            seen = []
            for look in question.looks:
                froms = [None] if look.read is None else sorted(blocks([look.read]))
                for _ in froms:
                    if look.read is None and not blocks(look.found):
                        continue
                    case = next(left)
                    assert set(np.flatnonzero(case.truth > 0)) == blocks(look.found)
                    assert set(np.flatnonzero(case.read > 0)) == blocks(seen)
                seen += look.found
            wrong = [span for one in planted.questions for span in one.needed if span not in question.needed]
            if wrong:
                turned = wrong[int(rng.integers(len(wrong)))]
                if blocks([turned]):
                    case = next(left)
                    assert (case.truth == -1).all() and blocks([turned]) <= set(np.flatnonzero(case.read > 0))
    assert next(left, None) is None


def test_what_was_read_is_open_when_a_look_from_it_is_taken(tasked_cases, begun):
    cases, config = tasked_cases
    behind = [case for case in cases if (case.read > 0).sum() in (1, 2)][:12]
    config = dataclasses.replace(config, budget=120)
    for case in behind:
        last = gather(case, begun, config, np.random.default_rng(0), noise=0.1)[-1]
        assert last.context.is_raw(np.flatnonzero(case.read > 0)).all()
        assert bool(last.labels().sum()) == bool((case.truth > 0).any())


def test_a_look_that_finds_nothing_pushes_every_score_down(begun):
    logits = torch.zeros(2, 3, requires_grad=True)
    lens_loss(logits, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), 8.0).backward()
    assert (logits.grad > 0).all()


def test_address_questions_behind_evidence_do_not_look_for_it(sampler):
    tasks = (TaskShare(variables=Variables(hops=3, chains=3)),)
    made = AddressSampler(sampler, address_config(keys=0, tasks=tasks), left_tokens=4, longest=64)
    batch = made.batch(np.random.default_rng(0))
    behind = np.flatnonzero(batch.read.any(axis=1))
    assert len(behind) and not (batch.read & (batch.answers > 0)).any()
    np.testing.assert_allclose(batch.answers.sum(axis=1), 1, atol=1e-6)
    for row in behind:
        question, last = batch.questions[row][batch.questions[row] >= 0], np.flatnonzero(batch.read[row])[-1]
        assert sampler.tokenizer.decode(question.astype(np.int32)).endswith("\nAnswer:")
        if (last + 1) % made.config.blocks == 0:
            continue  # the sentence ends in a block that is no candidate any more
        block = batch.blocks[last, 4:]
        assert bytes(block.astype("<i8")) in bytes(question.astype("<i8")), "what was read stands in front"


def test_a_history_of_pairs_alone_is_no_longer_than_its_pairs(sampler):
    tasks = (TaskShare(mqar=Mqar(pairs=5)),)
    made = AddressSampler(sampler, address_config(keys=0, tasks=tasks), left_tokens=4, longest=64)
    batch = made.batch(np.random.default_rng(0))
    rows = [bytes(row[4:].astype("<i8")) for row in batch.blocks]
    assert len(set(rows)) == len(rows) < made.config.histories * made.config.blocks


def test_without_gists_embeddings_and_gistnet_stay_and_the_rest_learns(begun, sampler):
    bundle = copy.deepcopy(begun)
    train_base(bundle, sampler, base_config(2, gists=False), seed=0, telemetry=SILENT, scratch=False)
    assert bundle.embedding_fingerprint() == begun.embedding_fingerprint()
    assert bundle.fingerprint("gistnet") == begun.fingerprint("gistnet")
    before = dict(begun.base.named_parameters())
    still = {name for name, weight in bundle.base.named_parameters() if torch.equal(weight, before[name])}
    assert still == {"transformer.wte.weight"}
    assert all(weight.requires_grad for weight in bundle.base.parameters()), "afterwards they may learn again"
