"""Suites at toy size: all is written, within the budget and again the same; a wrong scorer gets a wrong score."""

import dataclasses
import json
import re

import numpy as np
import polars as pl
import pytest
from toys import K, write_book

from megacontext.config import load_recipe
from megacontext.errors import BudgetError, CheckpointError, ConfigError, UnknownVariantError
from megacontext.evals.evaluation import EvalConfig, prepare, run_suite
from megacontext.evals.suites import ARMS, AUDIT, SUITES
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig, Session
from megacontext.scoring import SCORERS, BlockScorer
from megacontext.telemetry import read

BUDGET = 160
SIZES = {"variables": (2,), "babi": (2,), "mqar": (3, 12), "counting": (3,)}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("books") / "book.txt", 9000)


@pytest.fixture(scope="module")
def config_of(bundle_folder, book):
    def config(suite, **changes):
        given = {
            "suite": suite,
            "model": str(bundle_folder),
            "book": str(book),
            "focus": FocusConfig(budget=BUDGET),
            "n": 2,
            "seeds": (0, 3),
            "variants": SIZES.get(suite),
            "lengths": () if suite == "mqar" else (1500,),
            "traced_questions": 1,
        }
        return EvalConfig(**(given | changes))

    return config


def evaluate(config, runs):
    with RunFolder.create(runs, None, config, kind="eval", seed=0) as run:
        results = run_suite(prepare(config), run)
    return run.path, results


def answers_of(run):
    return [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(config_of, tmp_path_factory):
    return evaluate(config_of("needles", lengths=(1500, 1900)), tmp_path_factory.mktemp("runs"))


def test_the_run_folder_holds_the_samples_twice_and_the_tables(done, config_of):
    run, results = done
    files = {path.name for path in run.iterdir()}
    assert files == {
        "recipe.toml",
        "run.json",
        "answers.jsonl",
        "samples.parquet",
        "results.json",
        "telemetry",
    }
    assert json.loads((run / "results.json").read_text()) == results
    assert load_recipe(EvalConfig, run / "recipe.toml") == config_of("needles", lengths=(1500, 1900))
    frame, lines = pl.read_parquet(run / "samples.parquet"), answers_of(run)
    # Two seeds, one history each of 25 needles, at two lengths.
    assert frame.height == len(lines) == len(ARMS) * 2 * 2 * 25
    for row, line in zip(frame.to_dicts(), lines, strict=True):
        assert all(line[name] == row[name] for name in ("arm", "cell", "seed", "answered", "correct", "hit"))
    about = json.loads((run / "run.json").read_text())
    assert about["status"] == "done" and about["budget_positions"] == BUDGET


def test_no_arm_is_above_the_budget_and_all_are_asked_the_same(done, tokenizer):
    frame = pl.DataFrame(answers_of(done[0]))
    assert frame["cost_positions"].max() <= BUDGET
    assert frame.select("history", "question", "prompt", "expected", "depth").unique().height == 2 * 2 * 25
    costs = frame.group_by("arm").agg(pl.col("cost_positions").mean()).to_dict(as_series=False)
    mean = dict(zip(costs["arm"], costs["cost_positions"], strict=True))
    assert mean["none"] < mean["gist-only"] < mean["oracle"]


def test_the_oracle_reads_all_evidence_and_gists_alone_none_that_is_folded(done):
    frame = pl.DataFrame(answers_of(done[0]))
    hits = dict(frame.group_by("arm").agg(pl.col("hit").mean()).iter_rows())
    assert hits["oracle"] == 1 and hits["none"] == 0
    assert hits["gist-only"] < hits["bm25"] < 1


def test_telemetry_can_be_read_and_the_first_history_of_a_cell_is_traced(done):
    assert set(read(done[0] / "telemetry", "entry")["history"]) == {"1500-0", "1900-0"}
    assert read(done[0] / "telemetry", "answer").height == len(answers_of(done[0]))
    assert set(read(done[0] / "telemetry", "ingest")["history"]) == {"1500-0", "1500-1", "1900-0", "1900-1"}


@pytest.mark.parametrize("suite", [name for name in SUITES.names() if name not in ("needles", AUDIT)])
def test_every_suite_runs_and_the_same_config_gives_the_same_answers(config_of, tmp_path, suite):
    config = config_of(suite, arms=("bm25", "oracle"))
    first, results = evaluate(config, tmp_path / "first")
    again, _ = evaluate(config, tmp_path / "again")
    assert (first / "answers.jsonl").read_bytes() == (again / "answers.jsonl").read_bytes()
    assert [row["history"] for row in results["rows"][::2]] == [cell.name for cell in config.cells()]
    assert all(row["n"] >= config.n for row in results["rows"])
    assert {row["seed"] for row in answers_of(first)} == {0, 3}


class LooksElsewhere(BlockScorer):
    """Opens blocks, but never one that is needed."""

    def block_scores(self, question):
        scores = np.full(self.parts.memory.num_blocks, -1.0)
        scores[[block for block in range(0, len(scores), 3) if block not in question.needed_blocks][:4]] = 1.0
        return scores


def test_a_wrong_scorer_gets_a_wrong_score(config_of, tmp_path, monkeypatch):
    """The model is replaced by a reader who answers from the tokens before him, and from nothing else."""
    monkeypatch.setitem(SCORERS._entries, "elsewhere", LooksElsewhere)

    def extracted(session, readings, *, heads=1, max_tokens=12):
        said = []
        for reading in readings:
            seen = session.bundle.tokenizer.decode(token for token in reading.ids if token >= 0)
            context, prompt = seen.rsplit("\nQuestion:", 1)
            person = re.search(r"(?:Mr|Mrs|Miss|Captain|Doctor|Lady) \w+", prompt)[0]
            found = re.findall(rf"{person}\b[^.]*? is (\w+ \w+)\.", context)
            said.append(found[-1] if found else "")
        return said

    monkeypatch.setattr(Session, "decode", extracted)
    _, results = evaluate(config_of("needles", arms=("elsewhere", "gist-only", "none", "oracle")), tmp_path)
    scores = {row["arm"]: row["accuracy"] for row in results["rows"]}
    assert scores["oracle"] == 1.0
    assert scores["none"] == 0.0 and scores["elsewhere"] < 0.1 and scores["gist-only"] < 0.1
    assert results["rows"][0]["of_oracle"] == scores["elsewhere"]


def test_seeds_plant_other_things_and_each_is_its_own_whoever_stands_beside_it(config_of):
    both, alone = prepare(config_of("needles")), prepare(config_of("needles", seeds=(3,), n=1))
    first, second = both.histories["1500"]
    assert (first.seed, second.seed) == (0, 3)
    prompts = [{question.prompt for question in history.asked.questions} for history in (first, second)]
    assert not prompts[0] & prompts[1]
    assert {question.prompt for question in alone.histories["1500"][0].asked.questions} == prompts[1]


def test_enough_histories_are_planted_for_the_questions_that_were_asked_for(config_of):
    config = config_of("needles", n=120)
    assert config.histories_a_seed(config.cells()[0]) == 3, "2 seeds with 25 needles a history"
    assert len(prepare(config).histories["1500"]) == 6


def test_memories_stay_only_where_they_are_wanted(config_of, tmp_path, done):
    config = config_of("mqar", arms=("none",), variants=(3,), keep_memories=True)
    run, _ = evaluate(config, tmp_path)
    assert sorted(path.name for path in (run / "memory").iterdir()) == ["3pairs-0", "3pairs-1"]
    assert not (done[0] / "memory").exists()


def test_an_interrupt_leaves_whole_answers_and_says_so(config_of, tmp_path, monkeypatch):
    config, asked = config_of("needles", arms=("none", "bm25")), []

    def interrupted(session, *given, **more):
        asked.append(1)
        if len(asked) > 30:
            raise KeyboardInterrupt
        return focus(session, *given, **more)

    focus = Session.focus
    monkeypatch.setattr(Session, "focus", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, tmp_path)
    assert json.loads((tmp_path / "eval" / "run.json").read_text())["status"] == "interrupted"
    # The first history's two arms and the second's first are whole.
    assert len(answers_of(tmp_path / "eval")) == 3 * 25
    assert not (tmp_path / "eval" / "memory").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "no-such-model"}, CheckpointError, "must hold model.json, no-such-model does not"),
        ({"book": "no-such-book"}, UnknownVariantError, "one of emma"),
        ({"focus": FocusConfig(budget=K - 1)}, BudgetError, f"one block of {K} tokens, got {K - 1}; raise"),
        ({"focus": FocusConfig(budget=30)}, BudgetError, r"the prompt of \d+ tokens .*, got 30; raise focus.budget to"),
        ({"lengths": (10**6,)}, ConfigError, r"1,000,000 tokens .* book.txt has [\d,]+; lower --lengths or give a"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_found_when_it_is_prepared(config_of, change, error, message):
    with pytest.raises(error, match=message):
        prepare(config_of("needles", **change))


@pytest.mark.parametrize(
    ("suite", "wrong", "message"),
    [
        ("needels", {}, "unknown suite 'needels'; did you mean 'needles'"),
        ("needles", {"arms": ("lensnt",)}, "unknown scorer 'lensnt'; did you mean 'lensnet'"),
        ("needles", {"arms": ()}, "at least one arm and one seed"),
        ("needles", {"seeds": ()}, "at least one arm and one seed"),
        ("needles", {"arms": ("bm25", "bm25")}, "every arm must be named once, bm25 is more often; drop one"),
        ("needles", {"seeds": (1, 1)}, "every seed must be named once, 1 is more often"),
        ("needles", {"seeds": (-1,)}, "seeds must not be negative, got -1"),
        ("needles", {"n": 0}, "n must be at least 1 question a cell, got 0"),
        ("needles", {"lengths": (0,)}, r"at least 1 token of text, got lengths \[0\]"),
        ("needles", {"lengths": ()}, r"this suite needs lengths, got \[\]; name at least one"),
        ("needles", {"variants": (2,)}, r"this suite has no variants, got \[2\]; leave the option out"),
        ("mqar", {"lengths": (4096,)}, r"this suite has no lengths, got \[4096\]"),
        ("babi", {"variants": (4,)}, "the kinds 1, 2 and 3, got 4"),
        ("variables", {"variants": (0,)}, "at least 1 hop and 1 chain, got 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused(suite, wrong, message):
    with pytest.raises(ConfigError, match=message):
        EvalConfig(suite=suite, **wrong)


def test_what_is_left_open_is_the_suite_s_own():
    config = EvalConfig(suite="babi")
    assert (config.lengths, config.variants, config.arms) == ((4096, 16_384), (1, 2, 3), ARMS)
    assert [cell.name for cell in config.cells()][:2] == ["kind1-4k", "kind1-16k"]
    assert {cell.family for cell in config.cells()} == {"kind1", "kind2", "kind3"}
    assert dataclasses.replace(config, lengths=(1 << 20, 1000)).cells()[1].name == "kind1-1000"


def test_longer_histories_than_the_book_go_on_in_the_other_shipped_ones(bundle_folder):
    config = EvalConfig(
        suite="needles", model=str(bundle_folder), book="persuasion", lengths=(300_000,), n=1, seeds=(0,)
    )
    prepared = prepare(config)
    assert prepared.text.startswith("Persuasion, Emma")
    assert len(prepared.histories["300000"][0].asked.ids) > 300_000
