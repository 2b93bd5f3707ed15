"""The worked examples of AGENTS.md work: each is run as it stands, with the names of the module that it belongs to.

What an example takes from elsewhere is given to it here; what it registers is taken out again, so that no other test
meets it.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

AGENTS = Path(__file__).resolve().parents[1] / "AGENTS.md"
SECTIONS = dict(
    re.findall(
        r"^## How to add (an? [\w ]+?)\n(.*?)(?=^## |\Z)", AGENTS.read_text(encoding="utf-8"), re.M | re.S
    )
)
EXAMPLES = {
    what: block for what, text in SECTIONS.items() for block in re.findall(r"```python\n(.*?)```", text, re.S)
}


def run(what: str, module: Any, **given: Any) -> dict[str, Any]:
    """What the example defines, run among the names of `module` and those that are given."""
    names = dict(vars(module)) | given
    exec(compile(EXAMPLES[what], f"AGENTS.md: {what}", "exec", dont_inherit=True), names)
    return names


@pytest.fixture
def registered(monkeypatch):
    """Keeps what an example registers from all other tests."""

    def only_here(registry: Any) -> None:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    return only_here


@pytest.mark.parametrize("what", EXAMPLES)
def test_an_example_has_less_than_40_lines(what):
    assert sum(bool(line.strip()) for line in EXAMPLES[what].split("\n")) < 40


def test_there_is_one_for_each_part_that_is_added_to():
    parts = ("scorer", "gist encoder", "trainer", "evaluation", "base", "view", "operation")
    assert all(any(part in what for what in EXAMPLES) for part in parts)


def test_a_scorer_focuses_within_the_budget(registered, bundle, memory):
    from megacontext.runtime.session import FocusConfig, Session
    from megacontext.scoring import scorer

    registered(scorer.SCORERS)
    run("a scorer", scorer)
    session = Session(bundle, memory, FocusConfig(budget=60), scorer="longest-words")
    focus = session.focus(np.asarray(bundle.tokenizer.encode("Who?"), dtype=np.int32))
    assert focus.steps and focus.context.cost <= 60


def test_a_gist_encoder_makes_one_tree_by_every_route(registered, bundle):
    from toys import K, ids_of

    from megacontext.runtime import gist_kinds
    from megacontext.runtime.encoding import BundleEncoder
    from megacontext.tree import Memory

    registered(gist_kinds.GIST_KINDS)
    run("a gist encoder", gist_kinds)
    meaning = copy.copy(bundle)
    meaning.config = dataclasses.replace(bundle.config, gists="mean")
    encoder, ids = BundleEncoder(meaning), ids_of(K * K + 3)
    with (
        Memory.create(None, encoder.identity(), encoder) as at_once,
        Memory.create(None, encoder.identity(), encoder) as in_pieces,
    ):
        at_once.append(ids)
        for start in range(0, len(ids), 5):
            in_pieces.append(ids[start : start + 5])
        for lod, count in ((1, K), (2, 1)):
            assert np.array_equal(at_once.gists(lod, range(count)), in_pieces.gists(lod, range(count)))
        mean = bundle.base.embed(torch.from_numpy(ids[:K]).long()).mean(dim=0).detach()
        np.testing.assert_allclose(at_once.gists(1, range(1))[0], mean, atol=1e-3)


@pytest.mark.slow
def test_a_trainer_leaves_a_bundle_whose_addresses_moved(registered, tmp_path):
    from megacontext.config import from_mapping
    from megacontext.corpus.book import load_book
    from megacontext.runtime.bundle import Bundle, model_folder
    from megacontext.train import trainers
    from megacontext.train.address import AddressTrainConfig, train_address
    from megacontext.train.contexts import ContextSampler

    registered(trainers.TRAINERS)
    run(
        "a trainer", trainers, Bundle=Bundle, model_folder=model_folder, load_book=load_book, dataclass=dataclass,
        field=field, Literal=Literal, AddressTrainConfig=AddressTrainConfig, train_address=train_address,
        ContextSampler=ContextSampler,
    )  # fmt: skip
    kind = trainers.TRAINERS.get("finding")
    config = from_mapping(kind.config, {"books": ["persuasion"], "address_training": {"steps": 1}})
    outcome = kind.train(config, trainers.Order(runs=tmp_path))
    made, before = Bundle.load(outcome.model), Bundle.load(model_folder("tiny"))
    assert outcome.metrics["fingerprint"] == made.fingerprint() != before.fingerprint()
    assert torch.equal(made.base.embed(torch.arange(9)), before.base.embed(torch.arange(9)))


def test_an_evaluation_plants_its_answer_where_it_says(registered, tokenizer):
    from toys import prose

    from megacontext.evals import suites
    from megacontext.tasks import asked, counting

    registered(suites.SUITES)
    run("an evaluation", suites, **{name: value for name, value in vars(counting).items() if name[0] != "_"})
    (small, large) = suites.SUITES.get("first-bell").cells((4096,), (2, 5))
    text = asked.Background.of(np.asarray(tokenizer.encode(prose(4000)), dtype=np.int32), tokenizer)
    planted = large.task.plant(text, tokenizer, np.random.default_rng(0))
    (question,) = planted.questions
    (needed,) = question.needed
    assert question.answer.strip() in tokenizer.decode(planted.ids[needed.start : needed.stop])
    assert question.answer.strip() not in tokenizer.decode(planted.ids[: needed.start])
    assert small.name == "2persons-4k" and large.task.asks == len(planted.questions)


def test_a_base_goes_on_with_what_is_said(registered):
    from megacontext.runtime import bases
    from megacontext.runtime.bundle import Bundle, model_folder
    from megacontext.runtime.chat import ChatConfig, Conversation

    registered(bases.BASES)
    run("a base", bases, Bundle=Bundle, model_folder=model_folder)
    chosen = bases.open_base("shipped", bases.CheckpointChoice())
    said = "".join(
        Conversation(chosen.base, chosen.form, ChatConfig(max_tokens=4, temperature=0.0)).reply("It was")
    )
    assert said.strip()


def test_a_view_says_the_lengths_of_documents(tmp_path, bundle, encoder):
    from megacontext.tree import Memory
    from workbench.desk import Desk
    from workbench.state import Selection
    from workbench.stores.library import Library
    from workbench.text import count, plain, table
    from workbench.views import parts

    with Memory.create(tmp_path / "held", encoder.identity(), encoder) as memory:
        for name, words in (("short.txt", 20), ("<b>long.txt", 120)):
            with memory.document(name):
                memory.append(np.zeros(words, dtype=np.int32))
    library = Library(tmp_path, tmp_path / "held")
    desk = Desk(library, Selection(memory=library.given_memory))
    view = run("a view to the workbench", parts, Desk=Desk, count=count, plain=plain, table=table)[
        "LengthsView"
    ](desk)
    said = view._said.object
    assert "short.txt" in said and "120" in said and "<b>long" not in said and "&lt;b&gt;long.txt" in said
    view.refresh()
    view.tick()
    assert view.panel() is not None and view._said.object == said


def test_an_operation_takes_rows_and_refuses_what_is_none():
    from megakernels import backends
    from megakernels.errors import KernelShapeError

    reference = SimpleNamespace(norm=lambda x: x / x.norm(dim=-1, keepdim=True))
    names = run(
        "an operation to megakernels",
        backends,
        KernelShapeError=KernelShapeError,
        reference=reference,
        Tensor=torch.Tensor,
    )
    rows = torch.randn(3, 4)
    assert torch.allclose(names["gist_norm"](rows).norm(dim=-1), torch.ones(3))
    with pytest.raises(KernelShapeError, match="rows"):
        names["gist_norm"](rows[0])
