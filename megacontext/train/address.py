"""AddressNet's training: a question must find its block among hundreds of others (InfoNCE).

Questions come from planted facts, and from the text itself: a span of one to eight tokens of a block, rare ones
preferred, is a question about that block (inverse cloze). Every statement of a superseded fact is a right answer
here, and every block that such a sentence runs through; which statement counts is LensNet's to learn. The other
blocks of the batch are the wrong answers: facts about the same person and facts of the same kind among them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from megacontext.errors import ConfigError
from megacontext.gistnet.address import AddressNet
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.frozen.reader import FrozenReader
from megacontext.tasks.facts import FactsConfig, PlantedHistory
from megacontext.telemetry import Telemetry
from megacontext.train.contexts import ContextSampler
from megacontext.train.optimisers import OptimiserConfig, Optimisers
from megacontext.tree.encoder import left_windows


@dataclass(frozen=True, kw_only=True)
class AddressTrainConfig:
    """How AddressNet is trained."""

    steps: int = 400
    histories: int = 4
    """Histories a step; each is one batch of facts, all blocks of all histories are candidates."""
    blocks: int = 64
    """Blocks of a history."""
    keys: int = 24
    """Facts planted in each."""
    spans: int = 64
    """Inverse-cloze questions a step."""
    span_weight: float = 0.3
    temperature: float = 0.05
    """Cosines are divided by this before the softmax."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(matrix_lr=0.01))

    def __post_init__(self) -> None:
        if min(self.steps, self.histories, self.blocks, self.keys, self.spans) < 1 or self.temperature <= 0:
            raise ConfigError("address training needs sizes of at least 1 and a positive temperature")


@dataclass(frozen=True)
class AddressBatch:
    """Q questions and the N blocks that they are looked for in."""

    blocks: np.ndarray
    """int64 (N, left_tokens + K), -1 for what is before a history."""
    questions: np.ndarray
    """int64 (Q, T), -1 for padding on the right."""
    answers: np.ndarray
    """float32 (Q, N): the share of each block in the right answer; rows sum to 1."""
    weights: np.ndarray
    """float32 (Q,): weight of each question's loss."""


def statement_shares(planted: PlantedHistory, num_blocks: int, block_size: int) -> list[np.ndarray]:
    """Per question, equal shares (num_blocks,) for all blocks that its statements stand in; they sum to 1 or 0."""
    shares = []
    for question in planted.questions:
        row = np.zeros(num_blocks, dtype=np.float32)
        for statement in question.statements:
            # A block that holds only the last word counts like one that holds the rest: that word is the answer.
            row[statement.start // block_size : (statement.stop - 1) // block_size + 1] = 1.0
        shares.append(row / max(1.0, row.sum()))
    return shares


class AddressSampler:
    """Draws batches for AddressNet from the histories of a ContextSampler."""

    def __init__(self, contexts: ContextSampler, config: AddressTrainConfig, left_tokens: int, longest: int):
        self.contexts, self.config = contexts, config
        self.left_tokens, self.longest = left_tokens, longest
        shortest, wanted = min(map(len, contexts.books)), config.blocks * contexts.block_size
        if shortest < wanted:
            raise ConfigError(
                f"address training cuts stretches of {wanted:,} tokens, a book has only {shortest:,}; "
                "give longer books or lower address_training.blocks"
            )
        counts = np.bincount(np.concatenate(contexts.books), minlength=contexts.tokenizer.vocab_size)
        self._rarity = -np.log((counts + 1.0) / counts.sum())

    def batch(self, rng: np.random.Generator) -> AddressBatch:
        """One training batch."""
        config, size = self.config, self.contexts.block_size
        tokens, windows, questions, shares = [], [], [], []
        before = np.full(self.left_tokens, -1)
        for number in range(config.histories):
            facts = FactsConfig(keys=config.keys, attributes_per_person=int(rng.integers(2, 5)))
            planted, _ = self.contexts.history(rng, config.blocks * size, facts)
            blocks = planted.ids[: config.blocks * size].reshape(-1, size)
            tokens.append(blocks)
            windows.append(np.concatenate((left_windows(before, blocks, self.left_tokens), blocks), axis=1))
            for question, share in zip(
                planted.questions, statement_shares(planted, config.blocks, size), strict=True
            ):
                if share.any():
                    row = np.zeros((config.histories, config.blocks), dtype=np.float32)
                    row[number] = share
                    # The last tokens, as the encoder keeps them.
                    questions.append(self.contexts.tokenizer.encode(question.prompt)[-self.longest :])
                    shares.append(row.reshape(-1))
        planted_count = len(questions)
        flat = np.concatenate(tokens)
        for block in rng.choice(len(flat), size=config.spans, replace=config.spans > len(flat)):
            questions.append(self._span(rng, flat[block])[-self.longest :])
            shares.append(np.eye(1, len(flat), block, dtype=np.float32)[0])
        padded = np.full((len(questions), max(map(len, questions))), -1, dtype=np.int64)
        for row, question in zip(padded, questions, strict=True):
            row[: len(question)] = question
        weights = np.full(len(questions), config.span_weight / config.spans, dtype=np.float32)
        weights[:planted_count] = 1.0 / max(1, planted_count)
        return AddressBatch(np.concatenate(windows).astype(np.int64), padded, np.stack(shares), weights)

    def _span(self, rng: np.random.Generator, block: np.ndarray) -> np.ndarray:
        """One to eight consecutive tokens of `block`, likelier where they are rare."""
        length = min(int(rng.integers(1, 9)), len(block))
        rarity = np.convolve(self._rarity[block], np.ones(length), mode="valid") / length
        chances = np.exp(rarity - rarity.max())
        start = int(rng.choice(len(chances), p=chances / chances.sum()))
        return block[start : start + length]


def train_address(
    bundle: Bundle | FrozenReader,
    contexts: ContextSampler,
    config: AddressTrainConfig,
    *,
    seed: int,
    telemetry: Telemetry,
) -> None:
    """Train bundle.address. Same seed, same machine, same weights."""
    rng = np.random.default_rng(seed)
    net = bundle.address
    sampler = AddressSampler(contexts, config, net.config.left_tokens, net.config.longest_question)
    optimisers = Optimisers(config.optimiser.groups((net,)))
    began = time.monotonic()
    with Progress("addresses", config.steps) as progress:
        for step in range(config.steps):
            batch = sampler.batch(rng)
            answers = torch.from_numpy(batch.answers)
            questions = net(torch.from_numpy(batch.questions), AddressNet.QUESTION)
            blocks = net(torch.from_numpy(batch.blocks), AddressNet.BLOCK)
            logits = questions @ blocks.T / config.temperature  # (Q, A), (N, A) -> (Q, N)
            nats = F.cross_entropy(logits, answers, reduction="none")
            loss = (nats * torch.from_numpy(batch.weights)).sum()
            loss.backward()
            optimisers.step(config.optimiser.factor(step, config.steps))
            if (step + 1) % 10 == 0 or step + 1 == config.steps:
                planted = torch.from_numpy(batch.weights == batch.weights[0])
                best = logits.argmax(dim=1, keepdim=True)
                found = float((answers.gather(1, best)[:, 0] > 0)[planted].float().mean())
                telemetry.emit(
                    "train",
                    stage="address",
                    step=step + 1,
                    wall_s=time.monotonic() - began,
                    address_loss_nats=nats[planted].mean().item(),
                    address_accuracy=found,
                )
                progress.advance(f"found {found:.0%} among {len(blocks)}")
            else:
                progress.advance()
