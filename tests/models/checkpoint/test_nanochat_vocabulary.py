"""tokenizer.pkl: read without running it, refused when it is anything but a vocabulary, written for nanochat."""

import collections
import io
import os
import pickle
import pickletools
from pathlib import Path

import pytest
import tiktoken
import torch
from toys import model_config

from megacontext.errors import CheckpointError
from megacontext.models.checkpoint import check_vocabulary, load_tokenizer, save_tokenizer
from megacontext.models.checkpoint import vocabulary as module
from megacontext.tokenizer import SPECIAL_TOKENS

SAID = "It was 1811, she said: Bär, naïve 🌍\n\n <|bos|>"


def state_of(tokenizer, **changes):
    first = tokenizer.vocab_size - len(SPECIAL_TOKENS)
    state = {
        "name": "rustbpe",
        "pat_str": r"\w+|\W+",
        "mergeable_ranks": {tokenizer.token_bytes(token): token for token in range(first)},
        "special_tokens": {name: first + at for at, name in enumerate(SPECIAL_TOKENS)},
    }
    return state | changes


def encoding(state):
    return tiktoken.Encoding(**state)


def write(folder, value, protocol=None):
    (folder / "tokenizer.pkl").write_bytes(
        value if isinstance(value, bytes) else pickle.dumps(value, protocol)
    )


def test_a_vocabulary_trained_here_is_what_nanochat_unpickles(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    with (tmp_path / "tokenizer" / "tokenizer.pkl").open("rb") as file:
        theirs = pickle.load(file)
    assert isinstance(theirs, tiktoken.Encoding) and theirs.n_vocab == tokenizer.vocab_size
    assert theirs.encode_ordinary(SAID) == tokenizer.encode(SAID).tolist()
    assert theirs.encode_single_token("<|bos|>") == tokenizer.bos_id
    assert theirs.decode([tokenizer.vocab_size - 1]) == "<|output_end|>"


def test_token_bytes_are_int32_and_zero_for_specials(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    counted = torch.load(tmp_path / "token_bytes.pt", weights_only=True)
    assert counted.dtype == torch.int32 and counted.shape == (tokenizer.vocab_size,)
    assert (counted[-9:] == 0).all() and (counted[:-9] > 0).all()
    ids = tokenizer.encode("Emma Woodhouse, handsome, clever, and rich")
    assert counted[torch.from_numpy(ids).long()].sum() == 42


def test_a_saved_vocabulary_loads_as_the_same(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.decode(loaded.encode(SAID)) == SAID


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_spells_bytes_is_read(tokenizer, tmp_path, protocol):
    write(tmp_path, encoding(state_of(tokenizer)), protocol)
    if protocol == 2:
        with pytest.raises(CheckpointError, match="it uses TUPLE2"):
            load_tokenizer(tmp_path)
    else:
        assert load_tokenizer(tmp_path).vocab_size == tokenizer.vocab_size


def test_a_vocabulary_of_another_size_than_the_models_is_refused(tokenizer):
    check_vocabulary(tokenizer, model_config(vocab_size=tokenizer.vocab_size))
    with pytest.raises(CheckpointError, match="vocab_size of 601 ids, got 600; use the tokenizer that"):
        check_vocabulary(tokenizer, model_config(vocab_size=601))


# Hostile files. Each would leave a mark if it were executed.


class Calls:
    def __init__(self, function, *arguments):
        self.recipe = function, arguments

    def __reduce__(self):
        return self.recipe


def hostile(mark):
    command = f"touch {mark}"
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    specials = {name: 256 + at for at, name in enumerate(SPECIAL_TOKENS)}
    good = tiktoken.Encoding("rustbpe", pat_str=".", mergeable_ranks=bytes_alone, special_tokens=specials)
    named = b"\x80\x04\x8c\x0dtiktoken.core\x8c\x08Encoding\x93)\x81X\x04\x00\x00\x00gpt2b."
    call_class = b"\x80\x04\x8c\x0dtiktoken.core\x8c\x08Encoding\x93" + pickle.dumps(("a",))[2:-1] + b"R."
    return {
        "os.system": pickle.dumps(Calls(os.system, command)),
        "os.system in protocol 0": pickle.dumps(Calls(os.system, command), 0),
        "eval": pickle.dumps(Calls(eval, f"open({str(mark)!r}, 'w')")),
        "exec": pickle.dumps(Calls(exec, f"open({str(mark)!r}, 'w')")),
        "getattr": pickle.dumps(Calls(getattr, Path(mark), "touch")),
        "open": pickle.dumps(Calls(open, str(mark), "w")),
        "beside a vocabulary": pickle.dumps({"vocabulary": good, "more": Calls(os.system, command)}),
        "in the ranks": pickle.dumps([good, [[Calls(os.system, command)]]]),
        "an ordered dict": pickle.dumps(collections.OrderedDict(a=good)),
        "a nested name": b"\x80\x04\x8c\x08builtins\x8c\x0aobject.__x\x93.",
        "a name through a dot": b"\x80\x04\x8c\x0dtiktoken.core\x8c\x0cos.system\x93)\x81.",
        "tiktoken's module, another name": b"\x80\x04\x8c\x0dtiktoken.core\x8c\x07partial\x93)\x81.",
        "the class in os": b"\x80\x04\x8c\x02os\x8c\x08Encoding\x93)\x81.",
        "INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "OBJ": b"(cos\nsystem\nX" + len(command).to_bytes(4, "little") + command.encode() + b"o.",
        "an extension code": b"\x80\x02\x82\x01.",
        "a persistent id": b"\x80\x04X\x01\x00\x00\x00aQ.",
        "a registered vocabulary, which would be fetched": named,
        "a call of the class": call_class,
        "nested tuples": b"\x80\x04)" + b"\x94h\x00h\x00\x86" * 3 + b".",
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile("no/mark"))
def test_a_hostile_pickle_is_refused_and_never_executed(tmp_path, name):
    mark = tmp_path / "mark"
    write(tmp_path, hostile(mark)[name])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError) as told:
        load_tokenizer(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert "\n" not in str(told.value)


def test_the_reader_alone_admits_tiktokens_class_and_no_other():
    """The second of the two locks, without the first."""
    reader = module._Reader(io.BytesIO())
    assert reader.find_class("tiktoken.core", "Encoding") is module._Kept
    for name in (
        ("os", "system"),
        ("builtins", "eval"),
        ("tiktoken.core", "CoreBPE"),
        ("tiktoken", "Encoding"),
    ):
        with pytest.raises(pickle.UnpicklingError, match="it names"):
            reader.find_class(*name)


def test_no_opcode_that_calls_is_admitted():
    calls = {"REDUCE", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
    known = {opcode.name for opcode in pickletools.opcodes}
    assert known > module._HARMLESS and calls < known and not calls & module._HARMLESS


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(tokenizer, tmp_path, share):
    content = pickle.dumps(encoding(state_of(tokenizer)))
    write(tmp_path, content[: int(len(content) * share)])
    with pytest.raises(CheckpointError):
        load_tokenizer(tmp_path)


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path):
    with (tmp_path / "tokenizer.pkl").open("wb") as file:
        file.truncate(10 * 2**30)  # sparse: takes no room
    with pytest.raises(CheckpointError, match=r"at most 67,108,864 bytes, .* has more; it is foreign"):
        load_tokenizer(tmp_path)


def test_a_length_that_the_file_does_not_have_is_refused(tmp_path):
    write(tmp_path, b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"abc.")
    with pytest.raises(CheckpointError, match="was refused unread"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"hello", b"{}", bytes(100), b"\x80\x04N.", b"\x80\x04}."])
def test_what_is_no_vocabulary_is_refused(tmp_path, content):
    write(tmp_path, content)
    with pytest.raises(CheckpointError):
        load_tokenizer(tmp_path)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a readable file, .*tokenizer.pkl is not \(No such file"):
        load_tokenizer(tmp_path)


def without(ranks, token):
    return {key: rank for key, rank in ranks.items() if key != token}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["mergeable_ranks"].update({b"zzzz": 5000}), "from 0 on without a gap"),
        (
            lambda state: state.update(mergeable_ranks=without(state["mergeable_ranks"], b"a")),
            "all 256 bytes",
        ),
        (lambda state: state["special_tokens"].pop("<|bos|>"), "nanochat's nine specials"),
        (lambda state: state["special_tokens"].update({"<|x|>": 9999}), "nanochat's nine specials"),
        (
            lambda state: state["special_tokens"].update({"<|bos|>": 599, "<|output_end|>": 591}),
            "nine specials",
        ),
    ],
)
def test_a_vocabulary_of_another_make_is_refused(tokenizer, tmp_path, change, message):
    state = state_of(tokenizer)
    change(state)
    write(tmp_path, encoding(state))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


def test_a_split_pattern_that_does_not_compile_is_refused(tokenizer, tmp_path):
    content = pickle.dumps(encoding(state_of(tokenizer)))
    write(tmp_path, content.replace(rb"\w+|\W+", rb"\w+|((("))
    with pytest.raises(CheckpointError, match="tiktoken must accept the vocabulary"):
        load_tokenizer(tmp_path)
