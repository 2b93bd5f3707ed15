"""First light at toy size with random weights: everything is written, within the budget, and again the same."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toys import K, write_book

from megacontext.cli.tables import results_tables
from megacontext.config import load_recipe
from megacontext.errors import BudgetError, CheckpointError, ConfigError, UnknownVariantError
from megacontext.evals.first_light import (
    ARMS,
    DEPTH_BINS,
    FirstLightConfig,
    HistoryConfig,
    prepare,
    run_first_light,
    tables,
)
from megacontext.evals.statistics import wilson
from megacontext.focus import Reason
from megacontext.models.gpt import KVCache
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig
from megacontext.scoring import SCORERS
from megacontext.tasks.facts import FactsConfig
from megacontext.telemetry import read
from megacontext.tree import Memory

BUDGET = 112
KINDS = ("plain", "superseded", "plain", "superseded")
QUESTIONS = {"short": 2 * 4, "book": 6}


def toy_config(model, book, **changes):
    given = {
        "model": str(model),
        "book": str(book),
        "focus": FocusConfig(budget=BUDGET),
        "histories": (
            HistoryConfig(name="short", tokens=600, count=2, facts=FactsConfig(keys=4)),
            HistoryConfig(name="book", facts=FactsConfig(keys=6)),
        ),
        "traced_questions": 2,
    }
    return FirstLightConfig(**(given | changes))


def evaluate(config, runs):
    with RunFolder.create(runs, None, config, kind="demo", seed=config.seed) as run:
        results = run_first_light(prepare(config), run)
    return run.path, results


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("books") / "book.txt", 3500)


@pytest.fixture(scope="module")
def config(bundle_folder, book):
    return toy_config(bundle_folder, book)


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    return evaluate(config, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def answers(done):
    return [json.loads(line) for line in (done[0] / "answers.jsonl").read_text().splitlines()]


def test_the_run_folder_holds_what_a_reader_expects(done, config):
    run, results = done
    files = {path.name for path in run.iterdir()}
    assert files == {"recipe.toml", "run.json", "answers.jsonl", "results.json", "telemetry", "memory"}
    assert load_recipe(FirstLightConfig, run / "recipe.toml") == config
    assert json.loads((run / "results.json").read_text()) == results
    about = json.loads((run / "run.json").read_text())
    assert about["status"] == "done" and about["finished"] and about["message"] == ""
    assert about["budget_positions"] == BUDGET and about["book"]["title"] == "book.txt"
    assert about["model_fingerprint"] == Bundle.load(Path(config.model)).fingerprint()
    assert sorted(path.name for path in (run / "memory").iterdir()) == ["book-0", "short-0", "short-1"]


def test_there_is_one_answer_for_every_arm_and_question(answers):
    asked = [(answer["history"], answer["arm"], answer["question"]) for answer in answers]
    assert len(set(asked)) == len(asked) == len(ARMS) * sum(QUESTIONS.values())
    assert {arm for _, arm, _ in asked} == set(ARMS)
    for answer in answers:
        assert answer["correct"] == (answer["answered"] == answer["expected"])
        assert answer["prompt"].startswith("\nQuestion:")
        assert (answer["kind"] == "superseded") == (answer["versions"] > 1)
        assert 0 <= answer["depth"] < 1


def test_no_reading_is_above_the_budget_and_no_context_is_the_prompt_alone(answers, tokenizer):
    for answer in answers:
        assert answer["cost_positions"] <= BUDGET
        if answer["arm"] == "none":
            assert answer["cost_positions"] == len(tokenizer.encode(answer["prompt"]))


def test_every_arm_is_asked_the_same(answers):
    frame = pl.DataFrame(answers).select("history", "question", "prompt", "expected", "depth")
    assert frame.unique().height == sum(QUESTIONS.values())


def test_the_oracle_finds_every_block_and_what_has_no_context_none(answers):
    hits = {arm: [answer["hit"] for answer in answers if answer["arm"] == arm] for arm in ARMS}
    assert all(hits["oracle"]) and not any(hits["none"])
    assert any(hits["bm25"]), "the words of a question do find its block"


def test_the_needed_blocks_hold_the_answer(done, answers, encoder, tokenizer):
    for name in ("short-1", "book-0"):
        with Memory.open(done[0] / "memory" / name, encoder.identity()) as memory:
            for answer in answers:
                if answer["history"] == name and answer["arm"] == "oracle":
                    first, last = answer["needed_blocks"][0], answer["needed_blocks"][-1]
                    text = tokenizer.decode(memory.tokens(first * K, min((last + 1) * K, memory.num_tokens)))
                    whole = (last + 1) * K < memory.num_tokens
                    assert answer["expected"] in text or not whole


@pytest.mark.parametrize("kind", ["ingest", "focus", "entry", "block_score", "answer"])
def test_telemetry_of_every_kind_can_be_read(done, kind):
    frame = read(done[0] / "telemetry", kind)
    assert frame.height > 0
    if "arm" in frame.columns:
        assert set(frame["arm"]) <= set(ARMS)


def test_telemetry_agrees_with_the_answers(done, answers):
    told = read(done[0] / "telemetry", "answer").to_dicts()
    keys = ("history", "arm", "question", "answered", "correct", "cost_positions", "hit", "versions")
    assert [[row[key] for key in keys] for row in told] == [[row[key] for key in keys] for row in answers]
    ingest = read(done[0] / "telemetry", "ingest")
    for row in done[1]["ingest"]:
        last = ingest.filter(history=row["history"])[-1]
        assert (
            last["tokens_total"].item() == row["tokens"] and last["store_bytes"].item() == row["store_bytes"]
        )


def test_every_recorded_context_tiles_its_history_and_keeps_to_the_budget(done):
    entries = read(done[0] / "telemetry", "entry")
    assert set(entries["history"]) == {"short-0", "book-0"}, "the first history of each group is traced"
    assert set(entries["question"]) == {0, 1}
    focus = read(done[0] / "telemetry", "focus")
    for (history, arm, question, step), context in entries.group_by(
        "history", "arm", "question", "step", maintain_order=True
    ):
        assert context["start"].to_list() == [0, *context["stop"].to_list()[:-1]]
        row = focus.filter(history=history, arm=arm, question=question, step=step)
        assert row["cost_positions"].item() == context["cost_positions"].sum() <= BUDGET
        assert row["entries"].item() == context.height
        assert row["expanded"].item() == (context["edit"] == "expand").sum()
        assert row["expanded"].item() == (context["reason"] == "EXPANDED").sum()
        assert set(context["reason"]) <= {reason.name for reason in Reason}
    last = entries.filter(pl.col("step") == pl.col("step").max().over("history", "arm", "question"))
    assert (last["edit"] == "").all()


def test_block_scores_are_the_cosines_of_the_addresses(done, encoder):
    scores = read(done[0] / "telemetry", "block_score").filter(history="short-0", question=1)
    with Memory.open(done[0] / "memory" / "short-0", encoder.identity()) as memory:
        assert scores["block"].to_list() == list(range(memory.num_blocks))
    assert scores["score"].abs().max() <= 1 + 1e-3


def test_the_tables_count_the_answers(done, answers, bundle):
    for row in done[1]["rows"]:
        mine = [
            answer for answer in answers
            if answer["arm"] == row["arm"] and answer["history"].rsplit("-", 1)[0] == row["history"]
        ]  # fmt: skip
        right = sum(answer["correct"] for answer in mine)
        assert (row["n"], row["correct"]) == (len(mine), right) == (QUESTIONS[row["history"]], right)
        assert (row["low"], row["high"]) == wilson(right, len(mine))
        assert row["hit_rate"] == pytest.approx(np.mean([answer["hit"] for answer in mine]))
        assert row["plain_n"] + row["superseded_n"] == row["n"]
        mean = np.mean([answer["cost_positions"] for answer in mine])
        assert row["cost_positions_mean"] == pytest.approx(mean)
        # Keys and values of two layers of width 32, in float32.
        assert row["bytes_per_step"] == pytest.approx(mean * 2 * 2 * 32 * 4)
    depth = done[1]["depth"]
    assert len(depth) == 2 * len(ARMS) * DEPTH_BINS
    assert sum(row["n"] for row in depth) == len(answers)
    assert KVCache.bytes_per_position(bundle.config.model) == 2 * 2 * 32 * 4


def test_the_same_seed_gives_the_same_answers_and_another_other_questions(done, config, tmp_path):
    again, _ = evaluate(config, tmp_path)
    assert (again / "answers.jsonl").read_bytes() == (done[0] / "answers.jsonl").read_bytes()
    other = prepare(dataclasses.replace(config, seed=1))
    assert other.histories[0].asked.questions != prepare(config).histories[0].asked.questions


def test_right_answers_count_and_of_oracle_is_a_share_of_the_ceiling(config):
    answers = [
        {
            "history": "short-0", "group": "short", "history_tokens": 600, "arm": arm, "kind": kind,
            "depth": depth, "correct": right, "hit": right, "cost_positions": 100,
        }
        for arm, rights in {"oracle": (1, 1, 1, 0), "lensnet": (1, 0, 1, 0), "bm25": (0, 0, 0, 1)}.items()
        for right, kind, depth in zip(map(bool, rights), KINDS, [0.0, 0.5, 0.99, 1.0], strict=True)
    ]  # fmt: skip
    chosen = dataclasses.replace(config, arms=("oracle", "lensnet", "bm25"))
    results = tables(chosen, answers, [], 100)
    by_arm = {row["arm"]: row for row in results["rows"]}
    assert by_arm["lensnet"]["accuracy"] == 0.5 and by_arm["lensnet"]["of_oracle"] == pytest.approx(2 / 3)
    assert (by_arm["lensnet"]["plain_accuracy"], by_arm["lensnet"]["superseded_accuracy"]) == (1.0, 0.0)
    bins = [row["n"] for row in results["depth"] if row["arm"] == "bm25"]
    assert bins == [1, 0, 1, 0, 2]
    assert "LensNet answers 50% of 4 questions" in results["sentences"][0]
    assert "oracle 75%, bm25 25%" in results["sentences"][0]
    assert "superseded: LensNet 0%, BM25 50% (n = 2)" in results["sentences"][1]


@pytest.mark.parametrize("arms", [("oracle",), ("none",), ("bm25", "recency"), ("oracle&recency",)])
def test_any_choice_of_arms_has_its_table(config, arms, tmp_path):
    short = dataclasses.replace(config.histories[0], count=1, facts=FactsConfig(keys=1))
    _, results = evaluate(dataclasses.replace(config, arms=arms, histories=(short,)), tmp_path)
    (table,) = results_tables(results, BUDGET)
    assert [row["arm"] for row in results["rows"]] == list(arms) and table.row_count == len(arms)
    assert results["rows"][0]["of_oracle"] in (None, 1.0)


def test_a_book_that_fits_the_budget_is_read_whole(config, book, tmp_path):
    roomy = dataclasses.replace(
        config, focus=FocusConfig(budget=4000), arms=("recency", "lensnet"), histories=config.histories[1:]
    )
    run, results = evaluate(roomy, tmp_path)
    assert all(row["hit_rate"] == 1 for row in results["rows"])
    assert read(run / "telemetry", "focus").is_empty(), "there was nothing to focus"


# What is looked at before anything is written.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "no-such-model"}, CheckpointError, "must hold model.json, no-such-model does not"),
        ({"book": "no-such-book"}, UnknownVariantError, "one of emma"),
        ({"focus": FocusConfig(budget=K - 1)}, BudgetError, f"one block of {K} tokens, got {K - 1}; raise"),
        ({"focus": FocusConfig(budget=30)}, BudgetError, r"the prompt of \d+ tokens .*, got 30; raise focus.budget to"),
        (
            {"histories": (HistoryConfig(name="long", tokens=10**6),)},
            ConfigError,
            r"must have 1,000,000 tokens for histories 'long', book.txt has [\d,]+; give a longer book",
        ),
        (
            {"histories": (HistoryConfig(name="many", facts=FactsConfig(keys=5000)),)},
            ConfigError,
            "at most 4,096 statements",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_found_when_it_is_prepared(config, change, error, message):
    with pytest.raises(error, match=message):
        prepare(dataclasses.replace(config, **change))


def test_a_book_without_sentences_is_refused(config, tmp_path):
    (tmp_path / "words.txt").write_text("word " * 2000)
    with pytest.raises(ConfigError, match="must have a sentence end"):
        prepare(dataclasses.replace(config, book=str(tmp_path / "words.txt")))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"arms": ()}, "at least one arm"),
        ({"histories": ()}, "one group of histories"),
        ({"arms": ("bm25", "bm25")}, "every arm must be named once, bm25 is more often; drop one"),
        (
            {"histories": (HistoryConfig(name="a"), HistoryConfig(name="a"))},
            "every history group must be named once, a",
        ),
        ({"arms": ("lensnt",)}, "unknown scorer 'lensnt'; did you mean 'lensnet'"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        FirstLightConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": "16-k"}, {"name": "a/b"}, {"tokens": -1}, {"count": 0}]
)
def test_a_history_group_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match="a history group needs a name without"):
        HistoryConfig(**({"name": "a"} | wrong))


def test_every_arm_but_one_is_a_scorer():
    assert set(ARMS) - set(SCORERS.names()) == {"none"}


def surnames(history):
    asked = " ".join(question.prompt for question in history.asked.questions)
    return set(re.findall(r"(?:Mr|Mrs|Miss|Captain|Doctor|Lady) (\w+)", asked))


def test_facts_of_two_histories_of_a_group_differ(config):
    first, second, whole = prepare(config).histories
    assert (first.name, second.name, whole.name) == ("short-0", "short-1", "book-0")
    assert not surnames(first) & surnames(second)


def test_a_memory_of_a_run_opens_with_its_model_alone(done, bundle_folder):
    encoder = BundleEncoder(Bundle.load(bundle_folder))
    with Memory.open(done[0] / "memory" / "short-0", encoder.identity(), encoder) as memory:
        assert memory.num_tokens > 600
