"""nanochat's pipeline through the installed program: vocabulary, pretraining, measuring, chatting, in its folders."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from toys import prose

from megacontext.cli import main
from megacontext.cli.nanochat import STAGES
from megacontext.cli.nanochat.base_train import BaseTrain
from megacontext.models.checkpoint import load_checkpoint, load_tokenizer
from megacontext.telemetry import read

PROGRAM = Path(sys.executable).with_name("megacontext")
SMALL = (
    "--depth=2", "--max_seq_len=64", "--device-batch-size=4", "--total-batch-size=256", "--num_iterations=6",
    "--eval-every=3", "--eval_tokens=512", "--head-dim", "64", "--device-type=cpu", "--window-pattern=L",
)  # fmt: skip


class Base(NamedTuple):
    """A base directory, and what base_train said as it filled it."""

    folder: Path
    told: dict


def run(*command, base, expect=0):
    environment = os.environ | {"NANOCHAT_BASE_DIR": str(base)}
    given = [str(PROGRAM), *map(str, command)]
    done = subprocess.run(given, capture_output=True, text=True, env=environment, cwd=base, timeout=120)
    assert done.returncode == expect, done.stderr
    return done


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nanochat")
    shards = folder / "base_data_climbmix"
    shards.mkdir()
    for number in range(2):
        texts = [prose(900, start=1000 + 900 * (number * 30 + part)) for part in range(30)]
        pl.DataFrame({"text": texts}).write_parquet(shards / f"shard_0000{number}.parquet")
    run("nanochat", "tok_train", "--vocab-size=400", "--max_chars", 20_000, base=folder)
    return Base(folder, json.loads(run("nanochat", "base_train", *SMALL, "--json", base=folder).stdout))


@pytest.fixture
def inside(base, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base.folder))
    monkeypatch.chdir(base.folder)
    return base.folder


def test_the_stages_have_nanochats_names():
    assert STAGES.names() == ["tok_train", "base_train", "base_eval", "chat_cli"]


def audited_options():
    """The options of nanochat's scripts, as the audit tool holds them."""
    path = Path(__file__).parents[2] / "tools" / "nanochat_audit.py"
    spec = importlib.util.spec_from_file_location("nanochat_audit", path)
    audit = importlib.util.module_from_spec(spec)
    sys.modules["nanochat_audit"] = audit  # its dataclasses look themselves up
    spec.loader.exec_module(audit)
    return audit.OPTIONS


@pytest.mark.parametrize("stage", ["tok_train", "base_train", "chat_cli"])
def test_every_option_of_nanochats_script_is_accepted(stage, capsys):
    with pytest.raises(SystemExit):
        main(["nanochat", stage, "--help"])
    told = capsys.readouterr().out
    for spellings in audited_options()[f"scripts/{stage}.py"]:
        for spelling in spellings.split():
            assert spelling in told, spelling


def test_defaults_are_those_of_the_generation(inside):
    options = audited_options()["scripts/base_train.py"]
    taken = {
        "--target-param-data-ratio": lambda config: config.horizon.target_param_data_ratio,
        "--total-batch-size": lambda config: config.batch.total_batch_size,
        "--device-batch-size": lambda config: config.batch.device_batch_size,
        "--embedding-lr": lambda config: config.rates.embedding_lr,
        "--unembedding-lr": lambda config: config.rates.unembedding_lr,
        "--matrix-lr": lambda config: config.rates.matrix_lr,
        "--warmdown-ratio": lambda config: config.rates.warmdown_share,
        "--final-lr-frac": lambda config: config.rates.final_share,
        "--eval-every": lambda config: config.measure.eval_every,
        "--eval-tokens": lambda config: config.measure.eval_tokens,
        "--sample-every": lambda config: config.measure.sample_every,
        "--save-every": lambda config: config.measure.save_every,
        "--max-seq-len": lambda config: config.model.sequence_len,
    }
    for generation in ("classic", "current"):
        config = BaseTrain(dialect=generation, depth=12, data=inside / "base_data_climbmix").recipe()
        for option, value in taken.items():
            wanted = getattr(options[option], generation, options[option])
            assert value(config) == wanted, (generation, option)
    assert config.rates.warmup_steps == options["--warmup-steps"].current
    assert config.model.window_pattern == options["--window-pattern"].current
    # At depth 12 the scalings are those that the defaults were found with, but for the vocabulary.
    assert config.rates.weight_decay == pytest.approx(options["--weight-decay"].current)


def test_a_warmup_can_be_a_share_of_the_steps(inside):
    command = BaseTrain(depth=2, num_iterations=200, total_batch_size=2**17, warmup_ratio=0.1, head_dim=64)
    assert command.recipe().rates.warmup_steps == 20


def test_the_vocabulary_lies_where_nanochat_keeps_it(base):
    folder = base.folder / "tokenizer"
    assert sorted(path.name for path in folder.iterdir()) == ["token_bytes.pt", "tokenizer.pkl"]
    assert load_tokenizer(folder).vocab_size == 400


def test_the_checkpoint_lies_where_nanochat_looks_for_it(base):
    folder = base.folder / "base_checkpoints" / "d2"
    assert base.told["model"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["meta_000006.json", "model_000006.pt"]
    found = load_checkpoint(folder)
    assert (found.dialect, found.step, found.model.config.n_embd) == ("current", 6, 128)
    meta = found.meta
    assert meta["user_config"]["depth"] == 2 and meta["total_batch_size"] == 256 and meta["max_seq_len"] == 64
    assert meta["val_bpb"] == base.told["metrics"]["bits_per_byte"]
    assert set(meta["dataloader_state_dict"]) == {"pq_idx", "rg_idx", "epoch"}
    assert set(meta["loop_state"]) == {"min_val_bpb", "smooth_train_loss", "total_training_time"}


def test_the_run_can_be_looked_at(base):
    folder = base.folder / "runs" / "d2"
    about = json.loads((folder / "run.json").read_text())
    assert about["status"] == "done" and about["device"] == "cpu" and len(about["samples"]) == 4
    steps = read(folder / "telemetry", "train")["step"].to_list()
    assert steps[-1] == 6 and read(folder / "telemetry", "validation")["step"].to_list() == [3, 6]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["val/bpb"] == base.told["metrics"]["bits_per_byte"]


def test_measuring_gives_the_bits_per_byte_that_training_ended_with(base):
    command = ("nanochat", "base_eval", "-g", "d2", "-s", 6, "--split-tokens=512", "--json")
    told = json.loads(run(*command, base=base.folder).stdout)
    assert told["val_bpb"] == pytest.approx(base.told["metrics"]["bits_per_byte"], rel=1e-6)
    assert told["step"] == 6 and told["train_bpb"] > 0


def test_one_can_chat_with_it(base):
    command = ("nanochat", "chat_cli", "-i", "base", "-g", "d2", "-p", "It was", "-t", 0, "--max-tokens", 5)
    assert run(*command, base=base.folder).stdout.strip()


def test_a_run_goes_on_from_a_step(base, inside, capsys):
    small = ["nanochat", "base_train", *SMALL, "--model-tag=again"]
    assert main([*small, "--save-every=2", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["metrics"]
    assert whole["bits_per_byte"] == base.told["metrics"]["bits_per_byte"]
    assert main([*small, "--save-every=2", "--resume-from-step=4", "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)["metrics"]
    assert resumed["bits_per_byte"] == whole["bits_per_byte"]
    assert resumed["tokens_digest"] == whole["tokens_digest"]


def test_the_classic_generation_has_its_own_defaults(inside, capsys):
    (inside / "base_data").symlink_to(inside / "base_data_climbmix", target_is_directory=True)
    command = ["nanochat", "base_train", "--dialect=classic", "--depth=20", "--plan", "--json"]
    assert main(command) == 0
    plan = json.loads(capsys.readouterr().out)
    # With nanochat's own vocabulary of 65,536 this is its $100 run; here only the vocabulary differs.
    assert plan["matrices"] == 20 * 12 * 1280**2 and plan["batch_tokens"] == 524_288
    assert plan["tokens_per_parameter"] == pytest.approx(20, rel=1e-3)


def test_an_interrupted_run_saves_its_state_and_goes_on(base):
    command = [str(PROGRAM), "nanochat", "base_train", *SMALL, "--model-tag=cut", "--num-iterations=4000"]
    environment = os.environ | {"NANOCHAT_BASE_DIR": str(base.folder)}
    log = base.folder / "runs" / "cut" / "log.jsonl"
    running = subprocess.Popen(
        command, cwd=base.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=60) == 130
    states = list((log.parent / "checkpoints").iterdir())
    assert len(states) == 1 and "interrupted" in running.stderr.read()
    assert json.loads((log.parent / "run.json").read_text())["status"] == "interrupted"
    step = json.loads((states[0] / "state.json").read_text())["step"]
    assert 0 < step < 4000


MISTAKES = {
    "fp8": (["base_train", "--fp8"], "fp8 training is nanochat's own and not supported here"),
    "two warmups": (["base_train", "--warmup-steps=1", "--warmup-ratio=.1"], "a warmup is given once"),
    "no shards": (["base_train", "--data", "nowhere"], "a folder of parquet shards, nowhere does not exist"),
    "a batch that does not divide": (["base_train", *SMALL, "--total-batch-size=300"], "must be a multiple of what 1"),
    "an impossible shape": (["base_train", *SMALL, "--depth=0"], "depth, aspect-ratio and head-dim must be at least 1"),
    "a device that is not there": (["base_train", *SMALL, "--device-type=tpu"], "a device is cuda, cpu or mps, got"),
    "no wandb": (["base_train", *SMALL, "--run=mine", "--model-tag=w"], 'pip install "megacontext[wandb]"'),
    "a state that is not there": (["base_train", *SMALL, "--resume-from-step=77"], "a saved state of step 77"),
    "a run that exists": (["base_train", *SMALL], "d2 exists; choose another"),
    "a model that is not there": (["base_eval", "-g", "d99"], "d99"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_sentence_and_exit_code_2(mistake, inside, capsys):
    command, message = MISTAKES[mistake]
    before = sorted(path.name for path in (inside / "runs").iterdir())
    assert main(["nanochat", *command]) == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told
    if mistake != "no wandb":
        assert sorted(path.name for path in (inside / "runs").iterdir()) == before
