"""A frozen decoder reads a working context of tokens and gists out of a memory, as our own model does."""

import numpy as np
import pytest
import torch
from hf_toys import VOCABULARY, base_of

from megacontext.errors import ShapeError
from megacontext.focus import Edit, WorkingContext
from megacontext.models.huggingface import MeanGist
from megacontext.runtime.decoding import decode_greedily
from megacontext.runtime.reading import read, stack
from megacontext.tree import Identity, Memory

K = 8
N = 3 * K * K + 2 * K + 3
PROMPT = np.array([5, 11, 17, 5], dtype=np.int32)
NEVER = -7


class MeanGistEncoder:
    """Mean gists over a frozen model's own embeddings; addresses are their first numbers."""

    fingerprint = "mean-gists"
    block_size = K
    address_width = 4
    left_tokens = 0

    def __init__(self, base):
        self.base = base
        self.gist = MeanGist(base.embed(torch.arange(base.vocab_size)))
        self.gist_width = base.width

    @torch.inference_mode()
    def encode_blocks(self, tokens, left):
        # One block at a time: a sum is rounded differently beside other rows.
        gists = [self.gist(self.base.embed(torch.from_numpy(row[None]).long())) for row in tokens]
        gists = torch.cat(gists).numpy() if gists else np.zeros((0, self.gist_width), dtype=np.float32)
        return gists, gists[:, : self.address_width].copy()

    @torch.inference_mode()
    def encode_parents(self, children, lod):
        return torch.cat([self.gist(torch.from_numpy(row[None])) for row in children]).numpy()


@pytest.fixture(scope="module")
def history():
    return np.random.default_rng(0).integers(0, VOCABULARY, size=N, dtype=np.int32)


def memory_of(base, ids):
    encoder = MeanGistEncoder(base)
    identity = Identity(tokenizer="toy", embedding="toy", encoder=encoder.fingerprint, block_size=K)
    memory = Memory.create(None, identity, encoder)
    memory.append(ids)
    return memory


def expanded(context, *slots):
    for slot in slots:
        context = context.edited([Edit("expand", slot)])
    return context


@torch.inference_mode()
def logits(base, *readings):
    batch = stack(list(readings), base)
    return base.unembed(base(batch.embeddings, batch.positions, ids=batch.ids, padding=batch.padding))


@pytest.mark.parametrize("policy", ["context", "global"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "mistral"])
def test_a_working_context_is_read_and_decoded(name, policy, history):
    base = base_of(name)
    memory = memory_of(base, history)
    cover = WorkingContext.cover(N, K)
    contexts = [cover, expanded(cover, 0), expanded(cover, 1, 4), None]
    readings = [read(context, memory, PROMPT, policy) for context in contexts]
    assert {lod for context in contexts[:3] for lod in context.lod.tolist()} >= {0, 1, 2}
    together = logits(base, *readings)
    for row, reading in zip(together, readings, strict=True):
        torch.testing.assert_close(row[-reading.cost :], logits(base, reading)[0], atol=5e-5, rtol=0)
    answers = decode_greedily(base, readings, max_tokens=6, stop_tokens=[NEVER])
    for reading, answer in zip(readings, answers, strict=True):
        assert answer == greedy_without_cache(base, reading, 6)


def greedy_without_cache(base, reading, count):
    """The same, every token computed from the whole context again."""
    answer = []
    with torch.inference_mode():
        batch = stack([reading], base)
        embeddings, positions = batch.embeddings, batch.positions
        for _ in range(count):
            answer.append(int(base.unembed(base(embeddings, positions))[0, -1].argmax()))
            embeddings = torch.cat((embeddings, base.embed(torch.tensor([answer[-1:]]))), dim=1)
            positions = torch.cat((positions, positions[:, -1:] + 1), dim=1)
    return answer


def test_a_context_of_plain_tokens_is_the_plain_model(base, history):
    """In every architecture, with the answer that the library itself gives."""
    ids = history[: 6 * K + 5]
    reading = read(WorkingContext.raw(len(ids), K), memory_of(base, ids), PROMPT, "global")
    whole = torch.from_numpy(np.concatenate((ids, PROMPT)).astype(np.int64))[None]
    with torch.inference_mode():
        torch.testing.assert_close(
            logits(base, reading), base.model(input_ids=whole).logits.float(), atol=5e-5, rtol=0
        )
        own = base.model.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=NEVER,
        )
    assert decode_greedily(base, [reading], max_tokens=5, stop_tokens=[NEVER]) == [
        own[0, whole.shape[1] :].tolist()
    ]


def test_unfolding_everything_gives_the_plain_model_again(llama, history):
    memory = memory_of(llama, history)
    raw = WorkingContext.raw(N, K)
    folded = raw.edited([Edit("collapse", slot) for slot in range(N // K)])
    unfolded = folded.edited([Edit("expand", slot) for slot in range(N // K)])
    one, two, plain = (
        logits(llama, read(context, memory, PROMPT, "context")) for context in (unfolded, folded, raw)
    )
    assert torch.equal(one, plain) and one.shape != two.shape


@pytest.mark.parametrize("policy", ["context", "global"])
def test_what_a_gist_stands_for_reaches_the_answer(llama, history, policy):
    """A token changed inside a folded block changes the logits of the prompt, and nothing in front of the block."""
    other = history.copy()
    other[K + 3] = (other[K + 3] + 1) % VOCABULARY
    context = expanded(WorkingContext.cover(N, K), 0)
    assert context.lod[1] == 1
    one, two = (
        logits(llama, read(context, memory_of(llama, ids), PROMPT, policy))[0] for ids in (history, other)
    )
    assert torch.equal(one[:1], two[:1])
    assert ((one - two).abs().amax(dim=-1)[1:] > 1e-5).all()


def test_a_table_of_positions_refuses_a_timeline_longer_than_it(history):
    base = base_of("gpt2")
    reading = read(WorkingContext.cover(N, K), memory_of(base, history), PROMPT, "global")
    with pytest.raises(ShapeError, match=r"GPT2LMHeadModel has a table of 128 positions"):
        logits(base, reading)
    counted = read(WorkingContext.cover(N, K), memory_of(base, history), PROMPT, "context")
    assert torch.isfinite(logits(base, counted)).all()
