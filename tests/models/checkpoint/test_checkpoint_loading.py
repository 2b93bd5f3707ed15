"""A checkpoint of any dialect is known by its keys; what is no whole checkpoint is one sentence and nothing else."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_toys import SHAPE, toy, write

from megacontext.errors import CheckpointError, UnknownVariantError
from megacontext.models.checkpoint import load_checkpoint
from megacontext.models.checkpoint.upgrades import UPGRADES, upgrade
from megacontext.models.dialect import DIALECTS

GENUINE = Path(__file__).parent.parent / "fixtures"
AMBIGUOUS = ("2026-01-16", "2026-03-02")


@pytest.mark.parametrize("dialect", DIALECTS.names())
def test_the_dialect_is_told_by_the_keys_or_asked_for(tmp_path, dialect):
    model = toy(dialect)
    write(tmp_path, model)
    if dialect in AMBIGUOUS:
        with pytest.raises(
            CheckpointError, match="'2026-01-16' and '2026-03-02' apart, whose softcap differs"
        ):
            load_checkpoint(tmp_path)
        loaded = load_checkpoint(tmp_path, dialect=dialect)
    else:
        loaded = load_checkpoint(tmp_path)
    assert loaded.dialect == dialect and loaded.model.config == model.config and loaded.step == 7
    assert all(
        torch.equal(tensor, loaded.model.state_dict()[name]) for name, tensor in model.state_dict().items()
    )


@pytest.mark.parametrize("dialect", ["classic", "2025-12-09"])
def test_a_vocabulary_that_needs_no_padding_reads_the_same_in_both_oldest_dialects(tmp_path, dialect):
    model = toy(dialect, vocab_size=128)
    write(tmp_path, model)
    loaded = load_checkpoint(tmp_path)
    ids = torch.arange(128)[None]
    with torch.inference_mode():
        logits = [m.unembed(m(m.embed(ids), ids, ids=ids)) for m in (model, loaded.model)]
    assert torch.equal(*logits)
    assert load_checkpoint(tmp_path, dialect="2025-12-09").dialect == "2025-12-09"


@pytest.mark.parametrize(
    ("dialect", "override"), [("current", "2026-03-09"), ("classic", "current"), ("2026-01-16", "2026-01-11")]
)
def test_an_override_cannot_contradict_the_keys(tmp_path, dialect, override):
    write(tmp_path, toy(dialect))
    with pytest.raises(CheckpointError, match=f"must fit the keys, .* got '{override}'; leave it out"):
        load_checkpoint(tmp_path, dialect=override)


def test_an_override_that_is_no_dialect_is_answered_with_those_that_are(tmp_path):
    write(tmp_path, toy("current"))
    with pytest.raises(UnknownVariantError, match="did you mean 'classic'"):
        load_checkpoint(tmp_path, dialect="clasic")


def test_the_highest_step_is_taken_and_others_when_asked_for(tmp_path):
    for step in (20, 100, 3):
        write(tmp_path, toy("current"), step=step)
    (tmp_path / "model_000200_backup.pt").write_bytes(b"")
    assert load_checkpoint(tmp_path).step == 100
    assert load_checkpoint(tmp_path, 3).step == 3
    with pytest.raises(CheckpointError, match=r"model_000004.pt is not there; steps there are: 3, 20, 100"):
        load_checkpoint(tmp_path, 4)


def test_a_missing_window_pattern_means_that_every_layer_sees_all(tmp_path):
    model = toy("2026-01-11", window_pattern="L")
    write(tmp_path, model, config={"window_pattern": None})
    assert load_checkpoint(tmp_path).model.windows == (SHAPE["sequence_len"],) * SHAPE["n_layer"]


def test_bfloat16_on_disk_is_float32_in_memory_and_remembered(tmp_path):
    model = toy("current")
    state = {
        name: tensor.bfloat16() if "wte" in name or "value_embeds" in name else tensor
        for name, tensor in model.state_dict().items()
    }
    write(tmp_path, model, state=state)
    loaded = load_checkpoint(tmp_path)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}
    assert loaded.dtypes == {name: tensor.dtype for name, tensor in state.items()}
    assert torch.equal(loaded.model.embed(torch.arange(5)), state["transformer.wte.weight"][:5].float())


def test_tensors_that_share_memory_in_the_file_are_not_tied_in_the_model(tmp_path):
    model = toy("classic")
    state = model.state_dict()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    write(tmp_path, model, state=state)
    loaded = load_checkpoint(tmp_path).model
    assert loaded.lm_head.weight.data_ptr() != loaded.transformer["wte"].weight.data_ptr()


# Old names.


def test_the_prefix_of_torch_compile_is_stripped():
    assert UPGRADES[0].rename("_orig_mod.lm_head.weight") == "lm_head.weight"
    assert UPGRADES[0].rename("transformer._orig_mod.x") == "transformer._orig_mod.x"


def test_value_embeddings_inside_transformer_are_lifted_out():
    assert UPGRADES[1].rename("transformer.value_embeds.11.weight") == "value_embeds.11.weight"
    assert UPGRADES[1].rename("transformer.h.1.attn.c_q.weight") == "transformer.h.1.attn.c_q.weight"


def test_upgrading_names_the_steps_that_did_something():
    old = {"_orig_mod.transformer.value_embeds.1.weight": 1, "_orig_mod.lm_head.weight": 2}
    assert upgrade(old) == (
        {"value_embeds.1.weight": 1, "lm_head.weight": 2},
        [step.name for step in UPGRADES],
    )
    assert upgrade({"lm_head.weight": 2}) == ({"lm_head.weight": 2}, [])


def test_two_names_that_become_one_are_refused():
    with pytest.raises(CheckpointError, match=r"'a' comes twice after the step to strip the prefix"):
        upgrade({"_orig_mod.a": 1, "a": 2})


def test_a_compiled_models_checkpoint_loads(tmp_path):
    model = toy("current")
    write(tmp_path, model, state={f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()})
    loaded = load_checkpoint(tmp_path)
    assert loaded.upgrades == (UPGRADES[0].name,)
    assert torch.equal(loaded.model.lm_head.weight, model.lm_head.weight)


# What is no checkpoint.


def changed(**tensors):
    """A spoiler that sets tensors, or leaves them out where None is given; dots in names are written __."""

    def spoil(state):
        for name, tensor in tensors.items():
            name = name.replace("__", ".")
            state.pop(name, None)
            if tensor is not None:
                state[name] = tensor

    return spoil


def without_tables(state):
    for name in [name for name in state if name.startswith("value_embeds")]:
        del state[name]


def narrow_gates(state):
    state.update({name: tensor[:, :5] for name, tensor in state.items() if "ve_gate" in name})


HEAD = "lm_head__weight"
MIXED = {
    "a smear gate in classic": (
        "classic",
        changed(smear_gate__weight=torch.zeros(1, 24)),
        "has smear, which no dialect",
    ),
    "value gates of two generations": (
        "current",
        changed(transformer__h__0__attn__ve_gate__weight=torch.zeros(1, 32)),
        "value gates of 12 channels, value gates of 32 channels",
    ),
    "current with the old value gates": (
        "2026-03-02",
        changed(
            smear_gate__weight=torch.zeros(1, 24), smear_lambda=torch.zeros(1), backout_lambda=torch.zeros(1)
        ),
        "which no dialect has together",
    ),
    "value gates without tables": ("2026-03-09", without_tables, "no dialect has together"),
    "a gate of another width": ("2026-03-09", narrow_gates, "value gates of 5 channels"),
    "an unknown key": (
        "classic",
        changed(transformer__wpe__weight=torch.zeros(3)),
        "has also transformer.wpe.weight; it is foreign",
    ),
    "rotary tables": ("current", changed(cos=torch.zeros(3)), "has also cos; it is foreign"),
    "a key that is missing": ("current", changed(**{HEAD: None}), "lacks lm_head.weight; it is foreign"),
    "one scalar of two": ("2026-01-11", changed(x0_lambdas=None), "lacks x0_lambdas"),
    "a shape that does not fit": (
        "classic",
        changed(**{HEAD: torch.zeros(77, 31)}),
        r"lm_head.weight must be \(77, 32\), got \(77, 31\)",
    ),
    "rows that are not padded": (
        "current",
        changed(**{HEAD: torch.zeros(77, 32)}),
        r"must be \(128, 32\), got \(77, 32\)",
    ),
    "integers": ("classic", changed(**{HEAD: torch.zeros(77, 32).long()}), "must be dense tensors"),
    "doubles": ("classic", changed(**{HEAD: torch.zeros(77, 32).double()}), "must be dense tensors"),
    "a sparse tensor": (
        "classic",
        changed(**{HEAD: torch.zeros(77, 32).to_sparse()}),
        "must be dense tensors",
    ),
    "a list": ("classic", changed(**{HEAD: [1, 2]}), "must be dense tensors"),
    "nothing": ("classic", lambda state: state.clear(), "must be dense tensors"),
}


@pytest.mark.parametrize("name", MIXED)
def test_weights_that_are_not_of_one_dialect_and_shape_are_refused(tmp_path, name):
    dialect, spoil, message = MIXED[name]
    model = toy(dialect)
    state = model.state_dict()
    spoil(state)
    write(tmp_path, model, state=state)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


CONFIGS = {
    "heads that do not divide": ({"n_head": 5}, "must be an even multiple of n_head, got 32 and 5"),
    "key/value heads that do not divide": (
        {"n_head": 8, "n_kv_head": 3},
        "multiple of n_kv_head, got 8 and 3",
    ),
    "a negative size": ({"n_layer": -1}, "must be at least 1"),
    "a text for a number": ({"n_layer": "3"}, "n_layer must be an integer, got the text '3'"),
    "a text for the vocabulary": ({"vocab_size": "77"}, "vocab_size must be an integer"),
    "a pattern of other letters": ({"window_pattern": "SX"}, "must be letters L .* and S"),
    "a missing size": ({"n_embd": None}, "lacks n_embd; restore it"),
    "a field of another model": ({"rope_theta": 1}, "has rope_theta besides; it is foreign"),
    "more layers than there are": ({"n_layer": 4}, "must have the layers that model_config gives, 4, got 3"),
    "layers without end": ({"n_layer": 10**12}, "1,000,000,000,000, got 3"),
    "a width without end": ({"n_embd": 2 * 10**15}, r"must be \(128, 2000000000000000\), got \(128, 32\)"),
    "a vocabulary without end": ({"vocab_size": 64 * 10**15}, r"must be \(64000000000000000, 32\), got"),
    "another vocabulary": ({"vocab_size": 300}, r"must be \(320, 32\), got \(128, 32\)"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_does_not_fit_is_refused(tmp_path, name):
    change, message = CONFIGS[name]
    write(tmp_path, toy("current"), config=change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_short_windows_in_a_dialect_without_windows_are_refused(tmp_path):
    write(tmp_path, toy("classic"), config={"window_pattern": "SSSL"})
    with pytest.raises(
        CheckpointError, match="must be L in dialect 'classic', which has no windows, got 'SSSL'"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "need the meta that describes them, .*meta_000001.json is missing: saving was cut off"),
        (b"", "must be JSON, .* is not; it was cut off"),
        (b'{"step": 1, "model_conf', "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b"[]", "must hold a model_config"),
        (b'{"model_config": 5}', "must hold a model_config"),
    ],
    ids=["missing", "empty", "cut off", "binary", "nested", "a list", "another thing"],
)
def test_a_missing_or_damaged_meta_is_refused(tmp_path, content, message):
    shutil.copytree(GENUINE / "classic", tmp_path / "c")
    meta = tmp_path / "c" / "meta_000001.json"
    meta.unlink() if content is None else meta.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_weights_are_refused(tmp_path, share):
    shutil.copytree(GENUINE / "classic", tmp_path / "c")
    path = tmp_path / "c" / "model_000001.pt"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"must be a whole file of torch.save"):
        load_checkpoint(tmp_path / "c")


def test_a_flipped_bit_is_refused_by_its_checksum(tmp_path):
    shutil.copytree(GENUINE / "classic", tmp_path / "c")
    path = tmp_path / "c" / "model_000001.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"must match their checksums, .* does not in .*; it is damaged"
    ):
        load_checkpoint(tmp_path / "c")


class Runs:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


def test_weights_that_would_run_code_are_refused_and_do_not(tmp_path):
    shutil.copytree(GENUINE / "classic", tmp_path / "c")
    mark = tmp_path / "mark"
    torch.save({"lm_head.weight": torch.zeros(3), "x": Runs(mark)}, tmp_path / "c" / "model_000001.pt")
    with pytest.raises(CheckpointError, match=r"must be a whole file of torch.save with tensors alone"):
        load_checkpoint(tmp_path / "c")
    assert not mark.exists()


@pytest.mark.parametrize("make", ["zip", "text", "tensor", "folder"])
def test_foreign_files_are_refused(tmp_path, make):
    shutil.copytree(GENUINE / "classic", tmp_path / "c")
    path = tmp_path / "c" / "model_000001.pt"
    path.unlink()
    if make == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hello")
    elif make == "text":
        path.write_text("no weights" * 100)
    elif make == "tensor":
        torch.save(torch.zeros(3), path)
    else:
        path.mkdir()
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_checkpoints_is_refused(tmp_path, make):
    if make:
        (tmp_path / "none").mkdir()
    message = "none does not; check the path" if make else "none is no folder; check the path"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "none")


def test_every_refusal_is_one_sentence(tmp_path):
    write(tmp_path, toy("current"), config={"n_embd": None})
    with pytest.raises(CheckpointError) as told:
        load_checkpoint(tmp_path)
    assert "\n" not in str(told.value)
    assert json.loads((tmp_path / "meta_000007.json").read_text())["step"] == 7
