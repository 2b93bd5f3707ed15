"""Toy worlds that are learnt in seconds, and the smallest recipes."""

import dataclasses

import numpy as np
from toys import K
from training_toys import sampler_of

from megacontext.focus.allocator import AllocatorConfig
from megacontext.train.joint.config import JointTrainConfig, LearnConfig, MeasureConfig, StageConfig
from megacontext.train.joint.counterfactual import CounterfactualConfig
from megacontext.train.joint.passages import Ask, BookPassages, Passage, PassageSpec
from megacontext.train.optimisers import OptimiserConfig

ALL = LearnConfig(base=1.0, gistnet=1.0, address=1.0, lens=1.0)
READER = LearnConfig(base=1.0, gistnet=1.0, lens=0.0)
SHAPE = PassageSpec(min_blocks=10, max_blocks=20, horizon=6, facts_share=0.5, keys=4, asks=2)
FIRST = 20
"""First id that toy worlds use."""
NOTHING = np.zeros(0, dtype=np.int32)


def book_source(tokenizer):
    return BookPassages(sampler_of(tokenizer))


def stage(kind="joint", **changes):
    shape = {"name": kind, "kind": kind, "steps": 3, "passages": 3, "budget": 64, "shape": SHAPE}
    shape |= {"contexts": 3, "siblings": 2} | ({"learn": ALL} if kind == "joint" else {})
    return StageConfig(**(shape | changes))


def config_of(*stages, **changes):
    shape = {
        "stages": stages or (stage(),),
        "optimiser": OptimiserConfig(matrix_lr=0.01, other_lr=3e-3, warmup_steps=1),
        "counterfactual": CounterfactualConfig(edits=8, pairs=1),
        "allocator": AllocatorConfig(protect_recent_tokens=K),
        "measure": MeasureConfig(windows=6, distant_blocks=4, recent_blocks=2, horizon=4, save_every=2),
        "max_steps": 4,
    }
    return JointTrainConfig(**(shape | changes))


@dataclasses.dataclass
class RandomTokens:
    """Tokens drawn evenly from `count` ids: nothing can be known of the next one."""

    count: int = 12

    def passage(self, rng, spec):
        blocks = int(rng.integers(spec.min_blocks, spec.max_blocks + 1))
        ids = (FIRST + rng.integers(self.count, size=blocks * K + spec.horizon)).astype(np.int32)
        history, horizon = ids[: blocks * K], ids[blocks * K :]
        return Passage(history, (Ask(NOTHING, horizon, history[-4:]),))


@dataclasses.dataclass
class Topics:
    """A document of one topic: all tokens, and those to come, are drawn from its few words.

    With `among` blocks of other words about a single block of the topic: then that block alone tells what is to come.
    """

    topics: int = 6
    words: int = 3
    among: bool = False

    def passage(self, rng, spec):
        blocks, topic = (
            int(rng.integers(spec.min_blocks, spec.max_blocks + 1)),
            int(rng.integers(self.topics)),
        )
        history = self._said(rng, topic, blocks * K)
        needed = ()
        if self.among:
            other = FIRST + self.topics * self.words
            history = (other + rng.integers(30, size=blocks * K)).astype(np.int32)
            place = int(rng.integers(blocks))
            history[place * K : (place + 1) * K] = self._said(rng, topic, K)
            needed = (place,)
        horizon = self._said(rng, topic, spec.horizon)
        return Passage(history, (Ask(NOTHING, horizon, history[-4:], needed, needed),))

    def _said(self, rng, topic, count):
        return (FIRST + topic * self.words + rng.integers(self.words, size=count)).astype(np.int32)
