"""`megacontext chat` through the installed program: one answer, a loop, an interrupt, mistakes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models.huggingface.hf_toys import save_model
from toys import model_config, stir

from megacontext.cli import main
from megacontext.models.checkpoint import save_checkpoint, save_tokenizer
from megacontext.models.gpt import GPT
from megacontext.runtime.bases import CheckpointChoice, open_base
from megacontext.runtime.chat import ChatConfig, Conversation

PROGRAM = Path(sys.executable).with_name("megacontext")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A tiny random Llama in Hugging Face's format."""
    return save_model(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture(scope="module")
def nanochat(tokenizer, tmp_path_factory):
    """A base directory of nanochat's with a random model."""
    folder = tmp_path_factory.mktemp("nanochat")
    save_tokenizer(tokenizer, folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT(model_config())
    stir(model, 0)
    save_checkpoint(folder / "chatsft_checkpoints" / "d2", 7, model)
    return folder


@pytest.fixture
def place(nanochat, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(nanochat))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answers(base, *prompts, **config):
    """What the library says, without the command."""
    opened = open_base(str(base), CheckpointChoice())
    talk = Conversation(opened.base, opened.form, ChatConfig(**config))
    return ["".join(talk.reply(prompt)) for prompt in prompts]


def shown(answer):
    """As a terminal may see it."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in answer)


def test_one_prompt_gets_one_answer_from_a_hugging_face_folder(hub, place):
    command = [PROGRAM, "chat", "--base", hub, "to be or not to be?", "--max-tokens", "12", "--seed", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
    (said,) = answers(hub, "to be or not to be?", max_tokens=12, seed=3)
    assert shown(ended.stdout) == shown(said) + "\n" and said.strip()
    assert "\x1b" not in ended.stdout


def test_upstreams_options_talk_to_a_nanochat_checkpoint_line_by_line(nanochat, place):
    command = [PROGRAM, "chat", "-i", "sft", "-g", "d2", "-s", "7", "-t", "0", "-k", "5"]
    ended = subprocess.run(
        [*command, "--max-tokens", "6", "--json"],
        input="to be?\n\nand then?\nquit\nnever read\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == ["to be?", "and then?"]
    folder = nanochat / "chatsft_checkpoints" / "d2"
    said = answers(folder, "to be?", "and then?", max_tokens=6, temperature=0, top_k=5)
    assert [line["answer"] for line in lines] == said
    assert {line["base"] for line in lines} == {"chatsft_checkpoints/d2@7"}
    assert lines[1]["prompt_tokens"] > lines[0]["prompt_tokens"] and lines[0]["answer_tokens"] <= 6


def test_an_interrupt_stops_the_answer_and_not_the_conversation(place):
    command = [PROGRAM, "chat", "-t", "0", "--max-tokens", "100000"]
    talk = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        talk.stdin.write(b"to be?\n")
        talk.stdin.flush()
        assert talk.stdout.read(1)
        talk.send_signal(signal.SIGINT)
        out, error = talk.communicate(b"quit\n", timeout=120)
    finally:
        talk.kill()
    assert talk.returncode == 0 and error.decode() == " [stopped]\n", (out[-200:], error)


@pytest.mark.parametrize("arguments", [("to be?",), ("-p", "to be?"), ("--prompt", "to be?")])
def test_a_prompt_can_be_given_in_three_ways(place, capsys, arguments):
    assert main(["chat", *arguments, "-t", "0", "--max-tokens", "4"]) == 0
    found = capsys.readouterr()
    (said,) = answers(
        Path(os.environ["NANOCHAT_BASE_DIR"]) / "chatsft_checkpoints" / "d2",
        "to be?",
        temperature=0,
        max_tokens=4,
    )
    assert found.out == shown(said) + "\n" and found.err == ""


MISTAKES = {
    "an unknown base": (["--base", "smolm2", "hi"], "unknown base 'smolm2'; did you mean 'smollm2'?"),
    "a folder that is missing": (["--base", "./no", "hi"], "or the path of a folder, ./no is no folder"),
    "an empty folder": (
        ["--base", ".", "hi"],
        "must hold config.json (Hugging Face's format) or model_<step>.pt",
    ),
    "two prompts": (["hi", "-p", "ho"], "a prompt is given once"),
    "an empty prompt": ([" "], "a prompt must hold text"),
    "a negative temperature": (["hi", "-t", "-1"], "temperature must be 0 or above, got -1.0"),
    "no tokens": (["hi", "--max-tokens", "0"], "max_tokens must be at least 1, got 0"),
    "a negative top-k": (["hi", "-k", "-5"], "top_k must be 0 or above, got -5"),
    "a step that is not there": (["hi", "-s", "8"], "model_000008.pt is not there; steps there are: 7"),
    "a model that is not there": (["hi", "-g", "d3"], "must hold model_<step>.pt"),
    "a phase without checkpoints": (["hi", "-i", "rl"], "chatrl_checkpoints"),
    "a choice where there is none": (["hi", "--base", "smollm2", "-s", "3"], "smollm2 is none of them"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence(place, capsys, name):
    arguments, sentence = MISTAKES[name]
    assert main(["chat", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("megacontext: ") and said.err.count("\n") == 1
    assert sentence in said.err and not list(place.iterdir())
