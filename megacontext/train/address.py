"""AddressNet's training: a question must find its block among hundreds of others (InfoNCE).

Questions come from planted tasks, and from the text itself: a span of one to eight tokens of a block, rare ones
preferred, is a question about that block (inverse cloze). Where evidence leads to further evidence, the block that was
read stands in front of the question, as a second look will put it (`scoring.hops`), and is itself no candidate.
Every statement of the same is a right answer here, and every block that such a sentence runs through; which of them
counts is LensNet's to learn. The other blocks of the batch are the wrong answers: facts about the same person and facts
of the same kind among them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from megacontext.errors import ConfigError
from megacontext.gistnet.address import AddressNet
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.frozen.reader import FrozenReader
from megacontext.scoring.hops import seen_again
from megacontext.tasks.asked import AskedHistory, Look, Task
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.facts import FactsConfig
from megacontext.tasks.mixture import TaskShare, draw_task
from megacontext.telemetry import Telemetry
from megacontext.train.contexts import ContextSampler, blocks_of, check_planted
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
    """Facts planted in each, where there are facts alone; else 0."""
    tasks: tuple[TaskShare, ...] = ()
    """What is planted instead, one task a history."""
    spans: int = 64
    """Inverse-cloze questions a step."""
    span_weight: float = 0.3
    temperature: float = 0.05
    """Cosines are divided by this before the softmax."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(matrix_lr=0.01))

    def __post_init__(self) -> None:
        if min(self.steps, self.histories, self.blocks, self.spans) < 1 or self.temperature <= 0:
            raise ConfigError("address training needs sizes of at least 1 and a positive temperature")
        check_planted(self.keys, self.tasks, "address training")

    def task(self, rng: np.random.Generator) -> Task:
        """What the next history is about."""
        if self.tasks:
            return draw_task(self.tasks, rng)
        return Facts(facts=FactsConfig(keys=self.keys, attributes_per_person=int(rng.integers(2, 5))))


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
    read: np.ndarray
    """bool (Q, N): blocks that stand in the question already and are not looked for."""


def look_shares(look: Look, num_blocks: int, block_size: int) -> np.ndarray:
    """Equal shares (num_blocks,) for all blocks that a look's sentences stand in; they sum to 1, or to 0 for none."""
    row = np.zeros(num_blocks, dtype=np.float32)
    for span in (*look.found, *look.alike):
        # A block that holds only the last word counts like one that holds the rest: that word is the answer.
        row[blocks_of(span, block_size)] = 1.0
    return row / max(1.0, row.sum())


def statement_shares(planted: AskedHistory, num_blocks: int, block_size: int) -> list[np.ndarray]:
    """Per question, the shares of the blocks that it leads to by itself."""
    return [look_shares(question.looks[0], num_blocks, block_size) for question in planted.questions]


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
        tokens, windows, asked = [], [], []
        before, first = np.full(self.left_tokens, -1), 0
        for _ in range(config.histories):
            planted, _ = self.contexts.asked(rng, config.blocks * size, config.task(rng))
            count = min(config.blocks, len(planted.ids) // size)
            blocks = planted.ids[: count * size].reshape(-1, size)
            tokens.append(blocks)
            windows.append(np.concatenate((left_windows(before, blocks, self.left_tokens), blocks), axis=1))
            asked += [(first, *one) for one in self._asked(planted, count)]
            first += count
        flat = np.concatenate(tokens)
        questions = [question for _, question, _, _ in asked]
        shares = np.zeros((len(asked) + config.spans, len(flat)), dtype=np.float32)
        read = np.zeros(shares.shape, dtype=bool)
        for row, (first, _, share, opened) in enumerate(asked):
            shares[row, first : first + len(share)] = share
            read[row, first : first + len(share)] = opened
        planted_count = len(questions)
        for row, block in enumerate(
            rng.choice(len(flat), size=config.spans, replace=config.spans > len(flat))
        ):
            questions.append(self._span(rng, flat[block])[-self.longest :])
            shares[planted_count + row, block] = 1.0
        padded = np.full((len(questions), max(map(len, questions))), -1, dtype=np.int64)
        for row, question in zip(padded, questions, strict=True):
            row[: len(question)] = question
        weights = np.full(len(questions), config.span_weight / config.spans, dtype=np.float32)
        weights[:planted_count] = 1.0 / max(1, planted_count)
        return AddressBatch(np.concatenate(windows).astype(np.int64), padded, shares, weights, read)

    def _asked(
        self, planted: AskedHistory, num_blocks: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of every look that leads somewhere: what is read for it, the shares of the blocks, and those read already."""
        size = self.contexts.block_size
        for question in planted.questions:
            prompt = self.contexts.tokenizer.encode(question.prompt)
            for look in question.looks:
                share, opened = look_shares(look, num_blocks, size), np.zeros(num_blocks, dtype=bool)
                seen = prompt
                if look.read is not None:
                    inside = blocks_of(look.read, size)
                    # From the last of its blocks, which has seen the whole sentence.
                    window = seen_again(inside.stop - 1, size, self.left_tokens)
                    opened[inside] = True
                    share[opened] = 0.0
                    share /= max(1e-9, share.sum())
                    seen = np.concatenate((planted.ids[window.start : window.stop], prompt))
                if share.any():
                    # The last tokens, as the encoder keeps them.
                    yield seen[-self.longest :], share, opened

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
            logits = logits.masked_fill(torch.from_numpy(batch.read), -1e4)
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
