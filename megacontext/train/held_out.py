"""What the trained parts can do on a book and on names that none of them saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from megacontext.evals.bits_per_byte import text_loss
from megacontext.gistnet.address import AddressNet
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tasks.asked import Background
from megacontext.tasks.asked_facts import Facts
from megacontext.train.address import statement_shares
from megacontext.tree.encoder import left_windows

WINDOW_TOKENS = 256
_WINDOWS = 64
_ADDRESS_HISTORIES = 8
_ADDRESS_BLOCKS = 512


@torch.inference_mode()
def held_out_metrics(bundle: Bundle, text: str, *, seed: int) -> dict[str, Any]:
    """Bits per byte and nats per token of the text, and how often a question's address finds its block.

    Bits per byte over 64 windows of 256 tokens, all but the first token of each; addresses among 512 blocks.
    """
    ids = bundle.tokenizer.encode(text)
    windows = min(_WINDOWS, len(ids) // WINDOW_TOKENS)
    starts = np.linspace(0, len(ids) - WINDOW_TOKENS, windows).astype(int)
    rows = np.stack([ids[start : start + WINDOW_TOKENS] for start in starts]).astype(np.int64)
    loss = text_loss(bundle.base, rows, bundle.tokenizer.byte_lengths(), batch=windows).rates()
    found, asked = _addresses_found(bundle, ids, seed)
    return {
        **loss._asdict(),
        "address_found_among_512": found / max(1, asked),
        "address_questions": asked,
    }


def _addresses_found(bundle: Bundle, ids: np.ndarray, seed: int) -> tuple[int, int]:
    """How many questions have a block of one of their statements as their best match, of how many."""
    size, left = bundle.config.block_size, bundle.config.address.left_tokens
    encoder = BundleEncoder(bundle)
    found = asked = 0
    length = min(_ADDRESS_BLOCKS * size, len(ids))
    for number, start in enumerate(np.linspace(0, len(ids) - length, _ADDRESS_HISTORIES).astype(int)):
        rng = np.random.default_rng((seed, number))
        text = Background.of(ids[start : start + length], bundle.tokenizer)
        planted = Facts().plant(text, bundle.tokenizer, rng)
        blocks = planted.ids[: len(planted.ids) // size * size].reshape(-1, size)
        seen = np.concatenate((left_windows(np.full(left, -1), blocks, left), blocks), axis=1)
        addresses = bundle.address(torch.from_numpy(seen.astype(np.int64)), AddressNet.BLOCK).numpy()
        for question, share in zip(
            planted.questions, statement_shares(planted, len(blocks), size), strict=True
        ):
            best = int(
                (addresses @ encoder.encode_question(bundle.tokenizer.encode(question.prompt))).argmax()
            )
            found += share[best] > 0
            asked += 1
    return int(found), asked
