"""LensNet's training: which entries of this context hold what the question needs?

A case is one look at a history: of a question alone, or, with `hops`, of a question behind evidence that is open
already, for what that evidence leads to. Among the latter are looks that lead nowhere, from evidence that is the last
of its chain and from blocks that only seemed to be evidence: there LensNet learns to want nothing.

Whole histories are built with the frozen encoder, and contexts are gathered by the allocator that is deployed, at
the deployed budget. In a first round its scores are the truth blurred by noise, so that right and wrong expansions
both occur; then LensNet's own scores drive it, and it learns from the states that it gets itself into (DAgger, Ross
et al. 2011). The label of an entry is whether its span holds a block of the statement that counts; binary
cross-entropy calibrates the score, a softmax over the entries (a pointer) sharpens it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.focus.allocator import AllocatorConfig, AllocatorState, refocus
from megacontext.focus.context import WorkingContext
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.frozen.encoding import encoder_of
from megacontext.runtime.frozen.reader import FrozenReader
from megacontext.scoring.hops import seen_again
from megacontext.scoring.lens import EntryFeatures, Gaze, collate, entry_features, gaze_at, lens_scores
from megacontext.scoring.scorer import Question, best_of_blocks
from megacontext.spans import Span
from megacontext.tasks.asked import Asked, AskedHistory, Task
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.facts import FactsConfig
from megacontext.tasks.mixture import TaskShare, draw_task
from megacontext.telemetry import Telemetry
from megacontext.train.contexts import ContextSampler, blocks_of, check_planted
from megacontext.train.optimisers import OptimiserConfig, Optimisers
from megacontext.tree.memory import Memory


@dataclass(frozen=True, kw_only=True)
class LensTrainConfig:
    """How LensNet is trained."""

    histories: int = 24
    """Histories built; lengths are drawn log-uniformly."""
    min_tokens: int = 4096
    max_tokens: int = 65_536
    keys: int = 24
    """Facts planted, and asked for, in each history, where there are facts alone; else 0."""
    tasks: tuple[TaskShare, ...] = ()
    """What is planted instead, one task a history."""
    hops: bool = False
    """Whether LensNet learns to look again from evidence that is open."""
    budget: int = 240
    rounds: int = 3
    """Times that contexts are gathered over all histories: once from blurred truth, then by LensNet itself."""
    steps: int = 300
    """Updates in each round."""
    batch: int = 32
    noise: float = 0.5
    """Standard deviation of the noise on the truth in the first round."""
    miss_weight: float = 8.0
    """How many needless expansions a missed one is worth. Room that nobody else wants costs nothing, so a score is
    already positive where the odds are one to this."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(matrix_lr=0.01))
    allocator: AllocatorConfig = field(default_factory=AllocatorConfig)

    def __post_init__(self) -> None:
        if self.miss_weight <= 0:
            raise ConfigError(
                f"lens_training.miss_weight must be positive, got {self.miss_weight}; 1 is neutral"
            )
        if min(self.histories, self.rounds, self.steps, self.batch) < 1:
            raise ConfigError("every count of lens training must be at least 1; raise the one that is not")
        check_planted(self.keys, self.tasks, "lens training")
        if not 0 < self.min_tokens <= self.max_tokens:
            raise ConfigError(
                f"lens training needs 0 < min_tokens <= max_tokens, got {self.min_tokens} and {self.max_tokens}"
            )

    def task(self, rng: np.random.Generator) -> Task:
        """What the next history is about."""
        if self.tasks:
            return draw_task(self.tasks, rng)
        return Facts(facts=FactsConfig(keys=self.keys, attributes_per_person=int(rng.integers(2, 5))))


@dataclass(frozen=True)
class Case:
    """A look at one training history, as the trainer sees it."""

    memory: Memory
    gaze: Gaze
    truth: np.ndarray
    """float32 (num_blocks,): 1 for the blocks that the look is to find, else -1."""
    read: np.ndarray
    """float32 (num_blocks,): 1 for the blocks that are open by then, because they were read before, else -1."""


@dataclass(frozen=True)
class Example:
    """One context of one case. Its features are read when it is used: thousands of them would fill the memory."""

    case: Case
    context: WorkingContext

    def features(self) -> EntryFeatures:
        """What LensNet sees of it."""
        return entry_features(self.context, self.case.memory, self.case.gaze)

    def labels(self) -> Tensor:
        """float32 (N,) in {0, 1}: whether an entry holds a block of the statement that counts."""
        return torch.from_numpy(best_of_blocks(self.context, self.case.truth, tail=-1.0) > 0).float()


def build_cases(
    bundle: Bundle | FrozenReader, contexts: ContextSampler, config: LensTrainConfig, rng: np.random.Generator
) -> list[Case]:
    """Histories in RAM with the bundle's own gists and addresses, and every question about them."""
    encoder = encoder_of(bundle)
    identity = encoder.identity()
    cases: list[Case] = []
    with Progress("histories for LensNet", config.histories) as progress:
        for _ in range(config.histories):
            length = np.exp(rng.uniform(np.log(config.min_tokens), np.log(config.max_tokens)))
            planted, _ = contexts.asked(rng, int(length), config.task(rng))
            memory = Memory.create(None, identity, encoder)
            memory.append(planted.ids)

            def look(seen: np.ndarray, memory: Memory = memory) -> Gaze:
                asked = Question(number=0, ids=seen)
                return gaze_at(asked, memory, encoder, bundle.lens, contexts.tokenizer)

            for question in planted.questions:
                prompt = contexts.tokenizer.encode(question.prompt)
                cases += _cases(question, prompt, planted, memory, look, config, rng)
            progress.advance(f"{len(planted.ids):,} tokens")
    return cases


def _cases(
    question: Asked,
    prompt: np.ndarray,
    planted: AskedHistory,
    memory: Memory,
    look: Callable[[np.ndarray], Gaze],
    config: LensTrainConfig,
    rng: np.random.Generator,
) -> Iterator[Case]:
    """The looks of one question: of the question alone, then, with `hops`, those behind open evidence."""
    first, *further = question.looks
    truth = _blocks_at(first.found, memory)
    if truth.max(initial=-1.0) > 0:
        yield Case(memory, look(prompt), truth, _blocks_at((), memory))
    if not config.hops:
        return
    opened = [*first.found]
    for step in further:
        assert step.read is not None
        if step.read not in opened:
            opened.append(step.read)
        # From each block that the sentence runs through, as each of them will look.
        for block in _block_numbers(step.read, memory):
            found, read = _blocks_at(step.found, memory), _blocks_at(tuple(opened), memory)
            yield Case(memory, look(_behind(block, prompt, memory)), found, read)
        opened += step.found
    others = [span for other in planted.questions for span in other.needed if span not in question.needed]
    if others:
        # A wrong turn: evidence of another question leads nowhere.
        wrong = others[int(rng.integers(len(others)))]
        for block in _block_numbers(wrong, memory)[-1:]:
            read = _blocks_at((*first.found, wrong), memory)
            yield Case(memory, look(_behind(block, prompt, memory)), _blocks_at((), memory), read)


def _behind(block: int, prompt: np.ndarray, memory: Memory) -> np.ndarray:
    """What a look from an open block reads: see `scoring.hops`."""
    seen = seen_again(block, memory.block_size, memory.left_tokens)
    return np.concatenate((memory.tokens(seen.start, seen.stop), prompt))


def _block_numbers(span: Span, memory: Memory) -> range:
    """The finished blocks that a span runs through."""
    return range(memory.num_blocks)[blocks_of(span, memory.block_size)]


def _blocks_at(spans: tuple[Span, ...], memory: Memory) -> np.ndarray:
    """float32 (num_blocks,): 1 where one of the spans stands, else -1."""
    row = np.full(memory.num_blocks, -1.0, dtype=np.float32)
    for span in spans:
        row[blocks_of(span, memory.block_size)] = 1.0
    return row


def gather(
    case: Case,
    bundle: Bundle | FrozenReader,
    config: LensTrainConfig,
    rng: np.random.Generator,
    noise: float | None,
) -> list[Example]:
    """Contexts that the deployed allocator walks through for one case.

    Driven by the truth with that much `noise`, or by LensNet where `noise` is None; what was read before is opened too.
    """

    def blurred(context: WorkingContext) -> np.ndarray:
        truth = best_of_blocks(context, case.truth, tail=-1.0)
        return np.clip(0.5 * truth + rng.normal(scale=noise, size=len(truth)), -1, 1)

    cover = WorkingContext.cover(case.memory.num_tokens, case.memory.block_size)
    learned = lens_scores(bundle.lens, case.memory, case.gaze)
    chosen = learned if noise is None else blurred

    def score(context: WorkingContext) -> np.ndarray:
        return np.maximum(chosen(context), best_of_blocks(context, case.read, tail=-1.0))

    steps = refocus(cover, score, config.budget, AllocatorState(), config.allocator, max_steps=6)
    return [Example(case, step.context) for step in steps]


def lens_loss(logits: Tensor, labels: Tensor, present: Tensor, miss_weight: float) -> Tensor:
    """Scalar loss in nats per context: calibration (binary, summed over entries) plus pointer (softmax)."""
    weight = torch.tensor(miss_weight)
    binary = F.binary_cross_entropy_with_logits(logits, labels, reduction="none", pos_weight=weight) * present
    target = labels / labels.sum(dim=1, keepdim=True).clamp_min(1)
    pointer = F.cross_entropy(logits.masked_fill(~present, -1e4), target, reduction="none")
    return (binary.sum(dim=1) + pointer).mean()


def train_lens(
    bundle: Bundle | FrozenReader,
    contexts: ContextSampler,
    config: LensTrainConfig,
    *,
    seed: int,
    telemetry: Telemetry,
) -> None:
    """Train bundle.lens with everything else frozen. Same seed, same machine, same weights."""
    rng = np.random.default_rng(seed)
    cases = build_cases(bundle, contexts, config, rng)
    optimisers = Optimisers(config.optimiser.groups((bundle.lens,)))
    examples: list[Example] = []
    total = config.rounds * config.steps
    began = time.monotonic()
    done = 0
    for number in range(config.rounds):
        with Progress(f"LensNet, contexts of round {number + 1}", len(cases)) as progress:
            for case in cases:
                examples += gather(case, bundle, config, rng, config.noise if number == 0 else None)
                progress.advance()
        with Progress(f"LensNet, round {number + 1}", config.steps) as progress:
            for _ in range(config.steps):
                chosen = [examples[which] for which in rng.integers(len(examples), size=config.batch)]
                given = collate([example.features() for example in chosen])
                labels = torch.zeros(given.present.shape)
                for row, example in zip(labels, chosen, strict=True):
                    row[: len(example.context)] = example.labels()
                logits = bundle.lens(given)
                loss = lens_loss(logits, labels, given.present, config.miss_weight)
                loss.backward()
                optimisers.step(config.optimiser.factor(done, total))
                done += 1
                if done % 10 == 0 or done == total:
                    best = logits.masked_fill(~given.present, -1e4).argmax(dim=1, keepdim=True)
                    # A look that is to find nothing has no best entry.
                    right = float(labels.gather(1, best)[labels.any(dim=1)].mean())
                    telemetry.emit(
                        "train",
                        stage="lens",
                        step=done,
                        wall_s=time.monotonic() - began,
                        lens_loss_nats=loss.item(),
                        lens_accuracy=right,
                    )
                    progress.advance(f"points right {right:.0%}")
                else:
                    progress.advance()
