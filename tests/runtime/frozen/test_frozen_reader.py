"""A frozen decoder reads a memory: addresses at once, gists where they are read, its own turns around."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from frozen_toys import SINK, random_reader
from toys import K

from megacontext.errors import BudgetError, CheckpointError, ConfigError, TreeFormatError
from megacontext.focus import WorkingContext
from megacontext.gistnet.constant import ConstantPrefix
from megacontext.models.block_caches import read_segment
from megacontext.models.entries import CacheEntries
from megacontext.runtime.frozen.encoding import (
    AddressEncoder,
    PooledGistEncoder,
    create_memory,
    gists_of,
    open_memory,
)
from megacontext.runtime.frozen.reader import load_reader, new_reader
from megacontext.runtime.pooled_gists import save_pooled
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tree import GistEncoder, Memory
from megacontext.tree.encoder import SegmentEncoder

QUESTION = "\nQuestion: what is it?\nAnswer:"


def ids_of(reader, count, seed=0):
    return np.random.default_rng(seed).integers(3, 250, size=count).astype(np.int32)


@pytest.fixture
def memory(reader):
    made = create_memory(reader, None)
    made.append(ids_of(reader, K**3 + 5 * K * K + 3 * K + 5))
    return made


def session_of(reader, memory, budget=200, **options):
    return Session(reader, memory, FocusConfig(budget=budget), **options)


# Parts and folders.


def test_what_is_saved_is_what_is_loaded(reader, tmp_path):
    reader.save(tmp_path / "r", metrics={"seed": 3})
    loaded = load_reader(tmp_path / "r", precision="float32")
    assert loaded.fingerprint() == reader.fingerprint() and loaded.config == reader.config
    ids = torch.arange(12)[None] + 5
    assert torch.equal(loaded.address(ids, 0), reader.address(ids, 0))
    assert json.loads((tmp_path / "r" / "reader.json").read_text())["metrics"] == {"seed": 3}


def test_the_decoders_own_embeddings_are_looked_at_and_not_saved(reader, tmp_path):
    reader.save(tmp_path / "r")
    saved = sum(one.numel() for _, part in reader.parts() for one in part.state_dict().values())
    assert saved * 2 < (tmp_path / "r" / "reader.safetensors").stat().st_size < saved * 2 + 10_000
    assert "address.token.table" not in {f"address.{name}" for name in reader.address.state_dict()}
    table = reader.address.token.table
    torch.testing.assert_close(
        table, torch.nn.functional.normalize(reader.base.embed(torch.arange(len(table))).float(), dim=-1)
    )


def test_a_folder_that_is_damaged_or_of_another_decoder_is_refused(reader, tmp_path):
    with pytest.raises(CheckpointError, match="holds none that can be read"):
        load_reader(tmp_path)
    reader.save(tmp_path / "r")
    path = tmp_path / "r" / "reader.json"
    told = json.loads(path.read_text())
    for change, rule in (
        ({"format": 9}, "of format 1"),
        ({"weights_blake2b": "0"}, "must be whole"),
        ({"decoder_fingerprint": "0"}, "the decoder that it was trained for"),
    ):
        path.write_text(json.dumps(told | change))
        with pytest.raises(CheckpointError, match=rule):
            load_reader(tmp_path / "r", precision="float32")


def test_gists_that_do_not_fit_are_refused(config, reader, tmp_path):
    with pytest.raises(ConfigError, match="must be of blocks of 4 tokens, got 8"):
        new_reader(replace(config, block_size=4), "cpu", "float32")
    layers, heads, width = reader.base.entry_shape
    prefix = torch.zeros(layers, 2, heads, width)
    save_pooled(tmp_path / "c", ConstantPrefix(prefix, prefix), reader.decoder)
    with pytest.raises(ConfigError, match="is a constant prefix"):
        new_reader(replace(config, gists=str(tmp_path / "c")), "cpu", "float32")


# Memories.


def test_addresses_are_there_at_once_and_gists_only_where_they_are_read(reader, memory):
    assert isinstance(AddressEncoder(reader), GistEncoder)
    assert isinstance(PooledGistEncoder(reader), SegmentEncoder)
    assert memory.addresses().shape == (memory.num_blocks, 16) and memory.gist_width == 0
    source = gists_of(reader, memory)
    made = source.memory.gists(1, [9])
    assert np.flatnonzero(memory.history.has("gists.2", 1, np.arange(memory.num_blocks))).tolist() == [
        8, 9, 10, 11,
    ]  # fmt: skip
    segment = torch.from_numpy(memory.blocks(range(8, 12)).reshape(-1).astype(np.int64))
    blocks = read_segment(reader.base, segment, K, reader.decoder.sink_id).blocks
    keys, values = reader.gists(blocks.keys[:, 1:2], blocks.values[:, 1:2], reader.base.turn)
    expected = CacheEntries(keys[:, :, None], values[:, :, None]).packed()[0, 0]
    np.testing.assert_allclose(made[0], expected.detach(), atol=2e-3, rtol=2e-3)


def test_a_gist_is_the_same_before_and_after_its_segment_is_whole(reader):
    ids = ids_of(reader, 4 * K)
    growing, whole = create_memory(reader, None), create_memory(reader, None)
    growing.append(ids[: 2 * K + 3])
    early = gists_of(reader, growing).memory.gists(1, [0, 1])
    whole.append(ids)
    np.testing.assert_array_equal(early, gists_of(reader, whole).memory.gists(1, [0, 1]))
    growing.append(ids[2 * K + 3 :])
    np.testing.assert_array_equal(
        gists_of(reader, growing).memory.gists(1, range(4)),
        gists_of(reader, whole).memory.gists(1, range(4)),
    )


def test_what_a_session_made_is_kept_where_the_memory_is_writable(reader, tmp_path):
    with create_memory(reader, tmp_path / "m") as memory:
        memory.append(ids_of(reader, 900))
    for writable in (False, True):
        with open_memory(reader, tmp_path / "m", writable=writable) as memory:
            session = session_of(reader, memory)
            prompt = reader.tokenizer.encode(QUESTION)
            session.read(session.focus(prompt).context, prompt)
            kept = memory.history.has("gists.2", 1, np.arange(memory.num_blocks))
            assert kept.any() == writable


def test_a_memory_without_the_readers_gists_is_refused_where_it_is_only_read(reader, tmp_path):
    addresses = AddressEncoder(reader)
    Memory.create(tmp_path / "m", addresses.identity(), addresses).close()
    with open_memory(reader, tmp_path / "m") as memory:
        with pytest.raises(TreeFormatError, match="must hold the reader's gist version"):
            session_of(reader, memory)
    with open_memory(reader, tmp_path / "m", writable=True) as memory:
        session_of(reader, memory)
    with open_memory(reader, tmp_path / "m") as memory:
        session_of(reader, memory)


# Sessions.


def test_the_decoders_turns_stand_around_and_are_paid_from_the_budget(reader, memory):
    session, prompt = session_of(reader, memory), reader.tokenizer.encode(QUESTION)
    frame = reader.frame
    assert frame.opening[0] == reader.tokenizer.special_id(SINK)
    focus = session.focus(prompt)
    reading = session.read(focus.context, prompt)
    assert focus.context.cost + session.prompt_cost(prompt) <= 200
    np.testing.assert_array_equal(reading.ids[: len(frame.opening)], frame.opening)
    behind = frame.around(prompt)
    np.testing.assert_array_equal(reading.ids[-len(behind) :], behind)
    assert (np.diff(reading.positions) > 0).all()
    none = session.read(None, prompt)
    assert none.ids.tolist() == [*frame.opening.tolist(), *behind.tolist()]
    cost = session.prompt_cost(prompt)
    assert cost == len(frame.opening) + len(behind)
    with pytest.raises(BudgetError, match=f"the prompt of {cost} tokens"):
        session_of(reader, memory, budget=cost + K - 1).focus(prompt)


def test_a_model_that_chats_is_told_in_its_own_way_how_to_answer(reader):
    frame, encode = reader.frame, reader.tokenizer.encode
    said = reader.tokenizer.decode(frame.around(encode(QUESTION)))
    assert said == "\n\nQuestion: what is it?\nAnswer in a few words.<|im_end|>\n<|im_start|>assistant\n"
    bare = reader.tokenizer.decode(frame.around(encode("what is it?")))
    assert bare.startswith("\nwhat is it?\nAnswer in a few words.")
    assert frame.cost(encode("")) == len(frame.opening) + len(frame.asking) + len(frame.closing)


def test_levels_that_the_net_has_not_learnt_are_left_out_and_their_places_stay_empty(reader, memory):
    session, prompt = session_of(reader, memory), reader.tokenizer.encode(QUESTION)
    cover = WorkingContext.cover(memory.num_tokens, K)
    reading = session.read(cover, prompt)
    assert cover.lod.max() == 3 and reading.rows.lod.max() == 2
    left_out = int((cover.lod > 2).sum())
    around = session.prompt_cost(prompt)
    assert reading.cost == cover.cost + around - left_out
    assert reading.positions[-1] == cover.cost + around - 1
    assert not memory.history.has("gists.2", 3, np.array([0])).any()


def test_a_reader_may_leave_out_levels_that_are_learnt(config, memory):
    for levels, lowest in ((0, 0), (1, 1), (2, 2)):
        made = random_reader(replace(config, levels=levels))
        session, prompt = session_of(made, memory), made.tokenizer.encode(QUESTION)
        reading = session.read(WorkingContext.cover(memory.num_tokens, K), prompt)
        assert reading.rows.lod.max() == lowest and len(reading.cached_slots) == (reading.rows.lod > 0).sum()


def test_a_history_that_fits_is_read_as_the_decoder_itself_reads_it(reader):
    memory = create_memory(reader, None)
    memory.append(ids_of(reader, 5 * K + 3))
    session, prompt = session_of(reader, memory), reader.tokenizer.encode(QUESTION)
    reading = session.read(session.focus(prompt).context, prompt)
    assert not len(reading.cached_slots)
    answer = session.decode([reading], max_tokens=5)[0]
    ids = torch.from_numpy(reading.ids)[None]
    own = []
    for _ in range(5):
        token = int(reader.base.model(input_ids=ids).logits[0, -1].argmax())
        if token in reader.frame.stops or reader.tokenizer.decode([token]) == "\n":
            break
        own.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert answer == reader.tokenizer.decode(own).strip()


@pytest.mark.parametrize("scorer", ["recency", "bm25", "dense", "lensnet", "oracle"])
def test_every_scorer_works_on_it_within_the_budget(scorer, reader, memory):
    session, prompt = session_of(reader, memory, scorer=scorer), reader.tokenizer.encode(QUESTION)
    focus = session.focus(prompt, needed_blocks=(70,))
    assert focus.context.cost + session.prompt_cost(prompt) <= 200
    if scorer == "oracle":
        assert focus.context.is_raw(np.array([70])).all()
    session.decode([session.read(focus.context, prompt)], max_tokens=2)


def test_attention_mass_is_refused_in_a_sentence(reader, memory):
    with pytest.raises(ConfigError, match="our own GPT, got HuggingFaceBase"):
        session_of(reader, memory, scorer="attention").focus(reader.tokenizer.encode(QUESTION))
