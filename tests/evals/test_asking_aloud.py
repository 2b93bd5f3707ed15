"""A model that says its steps is asked on after each, by all arms alike, within the budget."""

import dataclasses
import json

import pytest
from toys import write_book

from megacontext.errors import ConfigError
from megacontext.evals.evaluation import EvalConfig, prepare, run_suite
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tasks.aloud import steps_of

BUDGET = 224


@pytest.fixture(scope="module")
def config(bundle_folder, tmp_path_factory):
    book = write_book(tmp_path_factory.mktemp("books") / "book.txt", 9000)
    return EvalConfig(
        suite="variables",
        model=str(bundle_folder),
        book=str(book),
        focus=FocusConfig(budget=BUDGET),
        arms=("bm25", "oracle"),
        n=2,
        seeds=(0,),
        variants=(2,),
        lengths=(900,),
        aloud="again",
    )


def speak(monkeypatch, line_of):
    """Have `line_of(text of the prompt)` said instead of what the model would; collects the prompts."""
    heard = []

    def decode(self, readings, *, max_tokens=12, heads=1):
        assert heads == 1
        lines = []
        for reading in readings:
            said = self.bundle.tokenizer.decode(reading.ids[reading.ids >= 0])
            prompt = said[said.rindex("\nQuestion:") :]
            heard.append(prompt)
            assert reading.cost <= BUDGET
            lines.append(line_of(prompt))
        return lines

    monkeypatch.setattr(Session, "decode", decode)
    return heard


def answers(config, runs):
    with RunFolder.create(runs, None, config, kind="eval", seed=0) as run:
        run_suite(prepare(config), run)
    return [json.loads(line) for line in (run.path / "answers.jsonl").read_text().splitlines()]


def test_each_step_becomes_part_of_the_question_until_a_line_is_no_sentence(config, tmp_path, monkeypatch):
    prepared = prepare(config)
    tokenizer = prepared.bundle.tokenizer
    script = {}
    for (history,) in prepared.histories.values():
        for question in history.asked.questions:
            prompt = question.prompt
            for step in steps_of(history.asked, question, tokenizer):
                script[prompt] = step.strip() + " and what comes after it"
                prompt += step
            script[prompt] = question.answer.strip()
    heard = speak(monkeypatch, script.__getitem__)
    rows = answers(config, tmp_path)
    assert len(rows) == 2 * 4 and all(row["correct"] for row in rows)
    assert all(len(row["said"]) == 2 and row["answered"] == row["expected"] for row in rows)
    # Three looks a question, by either arm.
    assert sorted(heard) == sorted([*script, *script])
    assert all(row["hit"] for row in rows if row["arm"] == "oracle")


def test_whoever_never_comes_to_an_answer_is_stopped_and_wrong(config, tmp_path, monkeypatch):
    heard = speak(monkeypatch, lambda prompt: "It is that of somebody else.")
    rows = answers(config, tmp_path)
    assert not any(row["correct"] for row in rows)
    assert all(len(row["said"]) > 1 and row["answered"].startswith("It is that") for row in rows)
    assert max(map(len, (row["said"] for row in rows))) < len(heard)


def test_from_one_look_all_steps_are_said_before_the_answer(config, tmp_path, monkeypatch):
    heard = speak(monkeypatch, lambda prompt: "Hers is that of A. That of A is that of B. blue fox")
    rows = answers(dataclasses.replace(config, aloud="once"), tmp_path)
    assert len(heard) == len(rows) == 2 * 4
    assert {tuple(row["said"]) for row in rows} == {("Hers is that of A.", "That of A is that of B.")}
    assert {row["answered"] for row in rows} == {"blue fox"}


def test_without_steps_a_sentence_is_the_answer(config, tmp_path, monkeypatch):
    heard = speak(monkeypatch, lambda prompt: "It is that of somebody else.")
    rows = answers(dataclasses.replace(config, aloud="no"), tmp_path)
    assert len(heard) == len(rows) == 2 * 4
    assert not any("said" in row for row in rows)


def test_suites_of_plain_text_say_nothing(tmp_path):
    from megacontext.cli.eval import EvalOptions

    with pytest.raises(ConfigError, match="asks no questions"):
        EvalOptions(suite="delta-nll", aloud="once", out=tmp_path / "run").evaluate()
    assert not (tmp_path / "run").exists()
