"""`megacontext train`: plans before anything starts, recipes of every kind, runs that go on, logs elsewhere."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from toys import write_book

from megacontext.cli import main

TOY = (
    "tiny-cpu", "--json", "--set", "model.sequence_len=64", "model.n_layer=2", "model.n_embd=32", "model.n_head=2",
    "model.n_kv_head=2", "model.vocab_size=400", "gistnet.heads=2", "batch.device_batch_size=4",
    "batch.total_batch_size=256", "horizon.num_iterations=4", "measure.eval_tokens=256", "measure.save_every=2",
    "measure.log_every=1",
)  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_book(tmp_path / "one.txt", 20_000)
    write_book(tmp_path / "two.txt", 6_000, start=60_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


BOOKS = ('corpus.books=["one.txt"]', 'corpus.held_out=["two.txt"]')


def train(*more, capsys):
    code = main(["train", *TOY, *BOOKS, *more])
    told = capsys.readouterr()
    return code, json.loads(told.out) if told.out else told.err


def test_a_plan_is_printed_and_nothing_starts(place, capsys):
    assert main(["train", "eight-gpus-d20", "--plan"]) == 0
    told = capsys.readouterr().out
    assert "560,988,160" in told and "FLOPs" in told and "memory on each, GiB" in told
    assert main(["train", "one-gpu-d12", "--plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch_tokens"] == 2**19
    assert not (place / "runs").exists()


def test_a_plan_of_what_has_none_is_refused(capsys):
    assert main(["train", "tiny", "--plan"]) == 2
    assert "a plan is of a pretraining or of pooled gists, recipe tiny is neither" in capsys.readouterr().err


def test_an_unknown_trainer_is_answered_with_those_that_exist(capsys):
    assert main(["train", "tiny-cpu", "--set", "trainer=pretain"]) == 2
    assert "unknown trainer 'pretain'; did you mean 'pretrain'? known are " in capsys.readouterr().err


def test_one_key_makes_a_vanilla_run_a_mega_run_over_the_same_tokens(place, capsys):
    _, vanilla = train("mega=false", capsys=capsys)
    _, mega = train("mega=true", capsys=capsys)
    one, other = vanilla["metrics"], mega["metrics"]
    assert (
        one["tokens_digest"] == other["tokens_digest"] and one["tokens"] == other["tokens"] == one["entries"]
    )
    assert other["entries"] < one["entries"] and one["bits_per_byte"] != other["bits_per_byte"]
    recipes = [Path(told["run"], "recipe.toml").read_text().splitlines() for told in (vanilla, mega)]
    assert set(recipes[0]) ^ set(recipes[1]) == {"mega = false", "mega = true"}


def test_a_vanilla_run_is_reproducible_to_the_last_bit(place, capsys):
    (_, one), (_, other) = (train(capsys=capsys) for _ in range(2))
    assert {**one["metrics"], "training_s": 0} == {**other["metrics"], "training_s": 0}


def test_a_run_goes_on_where_its_last_state_was_saved(place, capsys):
    _, whole = train(capsys=capsys)
    run = Path(whole["run"])
    (run / "checkpoints" / "step_000004").rename(run / "checkpoints" / "gone")
    code, resumed = train("--resume", str(run), capsys=capsys)
    assert code == 0 and resumed["run"] == whole["run"]
    assert resumed["metrics"]["bits_per_byte"] == whole["metrics"]["bits_per_byte"]
    assert json.loads((run / "run.json").read_text())["status"] == "done"


def test_a_run_goes_on_with_its_own_recipe_only(place, capsys):
    _, whole = train(capsys=capsys)
    code, said = train("seed=1", "--resume", whole["run"], capsys=capsys)
    assert code == 2 and "a run goes on with its own recipe" in said


def test_what_is_no_run_cannot_go_on(place, capsys):
    code, said = train("--resume", "nowhere", capsys=capsys)
    assert code == 2 and "going on needs a saved state, nowhere/checkpoints holds none" in said


def test_the_parts_neither_resume_nor_log_elsewhere(place, capsys):
    assert main(["train", "tiny", "--wandb-run", "x"]) == 2
    assert "leave --resume and --wandb-run out" in capsys.readouterr().err


def test_weights_and_biases_is_told_what_the_log_holds(place, capsys, monkeypatch):
    told, about = [], {}

    class Run:
        def log(self, numbers):
            told.append(numbers)

        def finish(self):
            about["finished"] = True

    fake = types.ModuleType("wandb")
    fake.init = lambda **given: about.update(given) or Run()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    _, outcome = train("--wandb-run", "mine", capsys=capsys)
    lines = (Path(outcome["run"]) / "log.jsonl").read_text().splitlines()
    assert told == [json.loads(line) for line in lines] and about["finished"]
    assert (about["project"], about["name"], about["config"]["mega"]) == ("nanochat", "mine", False)


def test_python_m_megacontext_is_the_program(place):
    done = subprocess.run(
        [sys.executable, "-m", "megacontext", "train", "tiny-cpu", "--plan", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )
    assert done.returncode == 0 and json.loads(done.stdout)["devices"] == 1
