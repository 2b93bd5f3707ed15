"""nanochat's folders: by phase, by tag, the deepest model first."""

from pathlib import Path

import pytest

from megacontext.errors import CheckpointError
from megacontext.models.checkpoint import base_dir, checkpoint_folder, last_step


def test_the_base_dir_is_the_environments_or_the_home_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    assert base_dir() == tmp_path
    monkeypatch.delenv("NANOCHAT_BASE_DIR")
    assert base_dir() == Path.home() / ".cache" / "nanochat"


@pytest.mark.parametrize(
    ("phase", "folder"),
    [
        ("base", "base_checkpoints"),
        ("mid", "mid_checkpoints"),
        ("sft", "chatsft_checkpoints"),
        ("rl", "chatrl_checkpoints"),
    ],
)
def test_every_phase_has_its_folder(tmp_path, phase, folder):
    assert checkpoint_folder(tmp_path, phase, "mine") == tmp_path / folder / "mine"


def test_without_a_tag_the_deepest_model_is_taken(tmp_path):
    for name in ("d4", "d20", "d12", "d9", "d99-try", "xd30", "zoo"):
        (tmp_path / "base_checkpoints" / name).mkdir(parents=True)
    (tmp_path / "base_checkpoints" / "d64").write_text("no folder")
    assert checkpoint_folder(tmp_path).name == "d20"


def test_nothing_to_choose_from_is_a_sentence_with_what_is_there(tmp_path):
    with pytest.raises(
        CheckpointError,
        match=r"deepest model d<N> in .*base_checkpoints is taken, there is none \(folders: none",
    ):
        checkpoint_folder(tmp_path)  # fmt: skip
    (tmp_path / "chatsft_checkpoints" / "mine").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"folders: mine\); give a tag"):
        checkpoint_folder(tmp_path, "sft")


@pytest.mark.parametrize("tag", ["", "..", "../secrets", "a/b", "/etc"])
def test_a_tag_is_one_name(tmp_path, tag):
    with pytest.raises(CheckpointError, match="is the name of one folder"):
        checkpoint_folder(tmp_path, "base", tag)


def test_an_unknown_phase_is_answered_with_those_that_exist(tmp_path):
    with pytest.raises(CheckpointError, match="one of base, mid, sft, rl, got 'chat'"):
        checkpoint_folder(tmp_path, "chat")


def test_steps_beyond_six_digits_count(tmp_path):
    for step in ("000009", "1000000", "999999", "12"):
        (tmp_path / f"model_{step}.pt").touch()
    assert last_step(tmp_path) == 1_000_000
