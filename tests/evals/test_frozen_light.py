"""The demo with a frozen decoder: works as documents, a memory that is found again, answers that cite."""

import json

import pytest
from frozen_toys import random_reader, save_parts
from toys import K, write_book

from megacontext.corpus import shakespeare
from megacontext.corpus.book import Book
from megacontext.evals import first_light
from megacontext.evals.first_light import FirstLightConfig, HistoryConfig, prepare, run_first_light
from megacontext.evals.histories import KEPT_MEMORIES
from megacontext.runtime.frozen.encoding import open_memory
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import FocusConfig
from megacontext.tasks.facts import FactsConfig

ARMS = ("none", "gist-only", "recency", "bm25", "lensnet", "oracle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    random_reader(save_parts(folder)).save(folder / "reader")
    return folder


@pytest.fixture
def works(tmp_path, monkeypatch):
    """Three works, the middle one shorter than a block."""
    long = write_book(tmp_path / "long.txt", 2500).read_text(encoding="utf-8")
    texts = {"First": long[:1500], "Tiny": "So. ", "Last": long[1500:]}
    made = [Book(title, "public domain", text) for title, text in texts.items()]
    monkeypatch.setattr(first_light, "load_shakespeare", lambda: made)
    return made


def config_of(folder, **changes):
    given = {
        "model": str(folder / "reader"),
        "book": shakespeare.NAME,
        "arms": ARMS,
        "focus": FocusConfig(budget=160),
        "histories": (HistoryConfig(name="works", facts=FactsConfig(keys=3)),),
        "traced_questions": 1,
        "about_the_text": ("Who is it?",),
    }
    return FirstLightConfig(**(given | changes))


def run_of(tmp_path, prepared, name):
    with RunFolder.create(tmp_path / "runs", name, prepared.config, kind="demo", seed=0) as run:
        return run, run_first_light(prepared, run)


def test_the_works_are_documents_of_the_memory_with_the_facts_inside(folder, works, tmp_path):
    prepared = prepare(config_of(folder))
    (history,) = prepared.histories
    assert [one.name for one in history.documents] == ["First", "Tiny", "Last"]
    assert history.documents[-1].stop == len(history.asked.ids)
    decode = prepared.bundle.tokenizer.decode
    for work, stretch in zip(works, history.documents, strict=True):
        said = decode(history.asked.ids[stretch.start : stretch.stop])
        assert said.startswith(work.text[:4]) and said.endswith(work.text[-4:])
    run, results = run_of(tmp_path, prepared, "one")
    with open_memory(prepared.bundle, run.path / "memory" / "works-0") as memory:
        assert [one.name for one in memory.documents] == ["First", "Tiny", "Last"]
        assert memory.num_tokens == len(history.asked.ids)
    assert {row["arm"] for row in results["rows"]} == set(ARMS)
    assert all(row["answer_s_median"] > 0 for row in results["rows"])
    lines = [json.loads(line) for line in (run.path / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * len(ARMS) and all(line["cost_positions"] <= 160 for line in lines)
    (told,) = results["about_the_text"]
    assert told["question"] == "Who is it?" and told["passages"]
    assert all(
        one["source"].startswith(("First, tokens", "Tiny, tokens", "Last, tokens"))
        for one in told["passages"]
    )


def test_a_second_run_reopens_the_memory_and_one_of_other_facts_makes_its_own(folder, works, tmp_path):
    prepared = prepare(config_of(folder, arms=("recency",)))
    first, results = run_of(tmp_path, prepared, "one")
    assert not results["ingest"][0]["reopened"]
    again, results = run_of(tmp_path, prepare(prepared.config), "two")
    assert results["ingest"][0]["reopened"]
    place = "memory/works-0"
    assert (first.path / place).resolve() == (again.path / place).resolve()
    other = prepare(config_of(folder, arms=("recency",), seed=1))
    _, results = run_of(tmp_path, other, "three")
    assert not results["ingest"][0]["reopened"]
    assert len(list((tmp_path / "runs" / KEPT_MEMORIES).iterdir())) == 2


def test_a_memory_whose_ingest_was_interrupted_is_made_anew(folder, works, tmp_path, monkeypatch):
    prepared = prepare(config_of(folder, arms=("recency",)))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(first_light, "ask_all", None)
        from megacontext.runtime.session import Session

        def stops(self, heard):
            self.memory.append(heard[: 3 * K])
            raise KeyboardInterrupt

        interrupted.setattr(Session, "observe", stops)
        with pytest.raises(KeyboardInterrupt):
            run_of(tmp_path, prepared, "one")
    _, results = run_of(tmp_path, prepared, "two")
    assert not results["ingest"][0]["reopened"]
    assert results["ingest"][0]["tokens"] == len(prepared.histories[0].asked.ids)
