"""What is saved is what nanochat of that dialect loads: its keys, its rows, its types, whole or not at all."""

import json
import os
from pathlib import Path

import pytest
import torch
from checkpoint_toys import toy

from megacontext.errors import CheckpointError
from megacontext.models.checkpoint import load_checkpoint, save_checkpoint
from megacontext.models.dialect import DIALECTS

GENUINE = Path(__file__).parent.parent / "fixtures"


def raw(folder, step=1):
    return torch.load(folder / f"model_{step:06d}.pt", weights_only=True)


def same_tensors(one, other):
    """Byte by byte, types included."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8))
        for name in one
    )


@pytest.mark.parametrize("name", ["classic", "current-full", "current-windowed"])
def test_a_genuine_checkpoint_is_written_again_as_it_was(tmp_path, name):
    loaded = load_checkpoint(GENUINE / name)
    save_checkpoint(tmp_path, loaded.step, loaded.model, loaded.meta, dtypes=loaded.dtypes)
    assert same_tensors(raw(GENUINE / name), raw(tmp_path))
    metas = [json.loads((folder / "meta_000001.json").read_text()) for folder in (GENUINE / name, tmp_path)]
    assert metas[0] == metas[1]
    again = load_checkpoint(tmp_path)
    assert (again.dialect, again.meta, again.dtypes) == (loaded.dialect, loaded.meta, loaded.dtypes)


@pytest.mark.parametrize("dialect", DIALECTS.names())
def test_save_load_save_gives_the_same_bytes_in_every_dialect(tmp_path, dialect):
    model = toy(dialect)
    halves = {name: torch.bfloat16 for name in model.state_dict() if "wte" in name or "value_embeds" in name}
    save_checkpoint(tmp_path / "a", 1, model, {"val_bpb": 0.5}, dtypes=halves)
    loaded = load_checkpoint(tmp_path / "a", dialect=dialect)
    save_checkpoint(tmp_path / "b", 1, loaded.model, loaded.meta, dtypes=loaded.dtypes)
    assert same_tensors(raw(tmp_path / "a"), raw(tmp_path / "b"))
    for file in ("model_000001.pt", "meta_000001.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert raw(tmp_path / "b")["transformer.wte.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("dialect", DIALECTS.names())
def test_rows_are_padded_and_the_config_has_the_fields_of_its_day(tmp_path, dialect):
    save_checkpoint(tmp_path, 1, toy(dialect))
    rows = 77 if dialect == "classic" else 128
    state, shape = raw(tmp_path), json.loads((tmp_path / "meta_000001.json").read_text())["model_config"]
    assert state["transformer.wte.weight"].shape == state["lm_head.weight"].shape == (rows, 32)
    assert ("window_pattern" in shape) == (dialect not in ("classic", "2025-12-09"))
    assert shape["vocab_size"] == 77 and "dialect" not in shape
    assert not any("gate" in name and tensor.shape[-1] not in (12, 24, 32) for name, tensor in state.items())


def test_step_and_shape_in_meta_are_those_of_what_is_saved(tmp_path):
    save_checkpoint(
        tmp_path, 12, toy("current"), {"step": 3, "model_config": {"n_layer": 99}, "note": [1, None]}
    )
    meta = json.loads((tmp_path / "meta_000012.json").read_text())
    assert meta["step"] == 12 and meta["model_config"]["n_layer"] == 3 and meta["note"] == [1, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"meta": {"x": {1, 2}}}, "must hold JSON values only"),
        ({"dtypes": {"wpe": torch.bfloat16}}, "'wpe' is none; leave it out"),
        ({"step": -1}, "counts from 0, got -1"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / "new", **({"step": 1, "model": toy("classic")} | arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"needs a folder, .* cannot be one"):
        save_checkpoint(tmp_path / "file", 1, toy("classic"))


@pytest.mark.parametrize("refused", ["model_000002.pt", "meta_000002.json"])
def test_a_disk_that_refuses_leaves_no_half_checkpoint_and_no_litter(tmp_path, monkeypatch, refused):
    save_checkpoint(tmp_path, 1, toy("classic"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    rename = os.replace

    def full(source, target):
        if Path(target).name == refused:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(tmp_path, 2, toy("classic"))
    there = {path.name for path in tmp_path.iterdir()} - before.keys()
    assert there <= {"model_000002.pt"}
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    if there:
        with pytest.raises(CheckpointError, match=r"meta_000002.json is missing: saving was cut off"):
            load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, 1).step == 1


def test_an_earlier_checkpoint_of_the_step_never_lends_its_meta_to_other_weights(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, toy("classic"))

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path, 1, toy("current"))
    assert not (tmp_path / "meta_000001.json").exists()
