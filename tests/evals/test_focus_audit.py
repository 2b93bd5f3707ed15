"""The audit at toy size: utilities are differences that can be measured again, and a score is compared with them."""

import json

import numpy as np
import polars as pl
import pytest
from toys import K, write_book

from megacontext.errors import BudgetError, ConfigError
from megacontext.evals.evaluation import EvalConfig, prepare
from megacontext.evals.focus_audit import (
    answer_nll,
    check_audit,
    first_place,
    measured,
    run_audit,
    unfolded,
    wanted_other,
)
from megacontext.focus.context import WorkingContext
from megacontext.focus.exact import NodeUtilities, best_context, value_of
from megacontext.runtime.decoding import decode_greedily
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig, Session

BUDGET = 128
ARMS = ("random", "bm25", "lensnet", "oracle")


@pytest.fixture(scope="module")
def config(bundle_folder, tmp_path_factory):
    book = write_book(tmp_path_factory.mktemp("books") / "book.txt", 4000)
    return EvalConfig(
        suite="focus-audit", model=str(bundle_folder), book=str(book), arms=ARMS, lengths=(400,), n=1,
        seeds=(0,), focus=FocusConfig(budget=BUDGET),
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    prepared = prepare(config)
    check_audit(prepared)
    with RunFolder.create(tmp_path_factory.mktemp("runs"), None, config, kind="audit", seed=0) as run:
        results = run_audit(prepared, run)
    return run.path, results


@pytest.fixture(scope="module")
def session(bundle, memory):
    return Session(bundle, memory, FocusConfig(budget=BUDGET))


@pytest.fixture(scope="module")
def asked(planted, tokenizer):
    question = planted.questions[0]
    return tokenizer.encode(question.prompt), tokenizer.encode(question.answer)


def test_a_block_is_unfolded_to_a_gist_beside_its_siblings(memory):
    cover = WorkingContext.cover(memory.num_tokens, K)
    for block in (0, 1, K, memory.num_blocks - 1):
        context = unfolded(cover, block)
        slot = context.slot_of(np.array([block * K]))[0]
        assert (context.lod[slot], context.index[slot]) == (1, block)
        assert (context.lod > 0).sum() + (context.lod == 0).sum() == len(context)
        assert not (context.lod[context.costs == K] == 0).any(), "nothing is opened to tokens"


def test_a_utility_is_what_one_opened_block_saves(session, memory, asked):
    found = measured(session, *asked)
    cover = WorkingContext.cover(memory.num_tokens, K)
    assert np.isfinite(found.utility).all() and len(found.utility) == memory.num_blocks
    for block in (0, 17, memory.num_blocks - 1):
        context = found.contexts[found.context_of[block]]
        slot = int(context.slot_of(np.array([block * K]))[0])
        folded, opened = answer_nll(session, [context, context.edited_at(expand=[slot])], *asked)
        assert found.utility[block] == pytest.approx(folded - opened, abs=1e-4)
        assert context.cost >= unfolded(cover, block).cost or context.lod[slot] == 1


def test_the_likelihood_of_an_answer_is_highest_for_what_the_model_would_say(session, memory, asked):
    prompt, answer = asked
    cover = WorkingContext.cover(memory.num_tokens, K)
    (said,) = decode_greedily(
        session.bundle.base, [session.read(cover, prompt)], max_tokens=1, stop_tokens=[-1]
    )
    first = answer_nll(session, [cover], prompt, np.array(said))[0]
    assert 0 < first < np.log(session.bundle.base.vocab_size)
    assert all(
        answer_nll(session, [cover], prompt, np.array([token]))[0] >= first for token in range(0, 500, 25)
    )
    whole = answer_nll(session, [cover], prompt, answer)[0]
    head = answer_nll(session, [cover], prompt, answer[:1])[0]
    rest = answer_nll(session, [cover], np.append(prompt, answer[0]), answer[1:])[0]
    assert whole == pytest.approx(head + rest, abs=1e-4), "nats of a whole are those of its parts"


def test_contexts_of_any_number_are_read_in_batches(session, memory, asked):
    covers = [
        WorkingContext.cover(memory.num_tokens, K),
        unfolded(WorkingContext.cover(memory.num_tokens, K), 0),
    ]
    many = answer_nll(session, covers * 20, *asked)
    assert many == pytest.approx(np.tile(answer_nll(session, covers, *asked), 20), abs=1e-4)


def test_the_first_place_is_shared_by_those_that_tie():
    assert first_place(np.array([1.0, 0, 0]), np.array([3.0, 1, 0])) == 1
    assert first_place(np.array([0.0, 1, 0]), np.array([3.0, 1, 0])) == 0
    assert first_place(np.array([1.0, 1, 0]), np.array([3.0, 1, 0])) == 0.5


def test_the_block_that_resembles_the_evidence_most_is_the_best_scored_of_the_others():
    scores, utility = np.array([0.9, 0.5, 0.5, -1.0]), np.array([8.0, -2.0, -4.0, 1.0])
    assert wanted_other(scores, utility, np.array([True, False, False, False])) == -3
    assert wanted_other(scores, utility, np.array([False, True, True, False])) == 8


def test_there_is_a_row_for_every_question_and_arm_and_one_for_every_block(done, config):
    run, results = done
    rows = pl.read_parquet(run / "samples.parquet")
    assert rows.height == 24 * len(ARMS) == len((run / "answers.jsonl").read_text().splitlines())
    blocks = pl.read_parquet(run / "expansions.parquet")
    each = blocks.group_by("history", "question", "arm").len()["len"]
    assert each.n_unique() == 1 and blocks.height == rows.height * each[0]
    assert (blocks.filter(pl.col("arm") == "oracle")["needed"]).any()
    assert [row["arm"] for row in results["audit"]] == list(ARMS)
    assert json.loads((run / "results.json").read_text()) == results


def test_the_rows_are_what_the_blocks_say(done):
    rows = pl.read_parquet(done[0] / "samples.parquet")
    blocks = pl.read_parquet(done[0] / "expansions.parquet")
    for row in rows.filter(pl.col("question") < 3).to_dicts():
        mine = blocks.filter((pl.col("question") == row["question"]) & (pl.col("arm") == row["arm"]))
        scores, utility = mine["score"].rank(), mine["utility_nats"].rank()
        expected = np.corrcoef(scores, utility)[0, 1]
        assert row["spearman"] == pytest.approx(expected, abs=1e-9)
        means = dict(mine.group_by("needed").agg(pl.col("utility_nats").mean()).iter_rows())
        assert (row["needed_nats"], row["other_nats"]) == pytest.approx((means[True], means[False]))


def test_no_context_is_worth_more_than_the_best_and_the_oracle_scores_what_is_needed(done):
    rows = pl.read_parquet(done[0] / "samples.parquet")
    assert (rows["regret_nats"] >= -1e-9).all() and (rows["best_value_nats"] >= 0).all()
    blocks = pl.read_parquet(done[0] / "expansions.parquet").filter(pl.col("arm") == "oracle")
    assert (blocks["score"] > 0).to_list() == blocks["needed"].to_list()


def test_an_arm_that_scores_by_the_utilities_themselves_has_order_and_first_place(session, memory, asked):
    utility = measured(session, *asked).utility
    worth = NodeUtilities(num_tokens=memory.num_tokens, block_size=K, raw=utility)
    best = best_context(worth, BUDGET - len(asked[0]))
    shown = np.unique(best.index[(best.lod == 0) & (best.costs == K)])
    assert value_of(best, worth) == pytest.approx(utility[shown].sum())
    assert first_place(utility, utility) == 1


@pytest.mark.parametrize("arm", ["none", "gist-only", "lensnet&bm25"])
def test_arms_without_scores_are_not_audited(config, arm):
    wrong = EvalConfig(**({name: getattr(config, name) for name in ("suite", "model", "book", "focus", "lengths")}),
                       arms=(arm,), n=1, seeds=(0,))  # fmt: skip
    with pytest.raises(ConfigError, match="an audit is of scorers"):
        check_audit(prepare(wrong))


def test_histories_that_are_read_whole_are_not_audited(config):
    roomy = EvalConfig(suite="focus-audit", model=config.model, book=config.book, lengths=(400,), n=1, seeds=(0,),
                       focus=FocusConfig(budget=5000))  # fmt: skip
    with pytest.raises(ConfigError, match="must be longer than the budget of 5000 positions"):
        check_audit(prepare(roomy))


def test_a_budget_without_room_for_an_opened_block_is_named(bundle, memory, asked):
    narrow = Session(bundle, memory, FocusConfig(budget=len(asked[0]) + 22))
    with pytest.raises(BudgetError, match="a reading must cost at most"):
        measured(narrow, *asked)
